"""Prints the commands of README.md that are marked for a purpose, so that what the README says is what is tested.

    python .ci/readme_commands.py README.md run

A block is marked by `<!-- ci: run -->` (or any other word) on the line above its fence.
"""

import re
import sys
from pathlib import Path


def commands(text: str, purpose: str) -> list[str]:
    """The contents of all ```bash blocks of `text` directly after `<!-- ci: purpose -->`."""
    return re.findall(rf"^<!-- ci: {re.escape(purpose)} -->\n+```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def main() -> int:
    """Print the blocks; status 1 where there is none, for a README without commands tests nothing."""
    path, purpose = sys.argv[1:]
    text = Path(path).read_text(encoding="utf-8")
    found, marks = commands(text, purpose), text.count(f"<!-- ci: {purpose} -->")
    if not found or len(found) != marks:
        print(
            f"{path} has {marks} marks <!-- ci: {purpose} --> and {len(found)} ```bash blocks after them",
            file=sys.stderr,
        )
        return 1
    print("\n".join(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
