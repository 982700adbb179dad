"""The commands that CI runs are those of the README."""

import runpy
from pathlib import Path

import pytest

commands = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "readme_commands.py"))["commands"]
README = """
<!-- ci: run -->
```bash
first
second
```

```bash
not marked
```

<!-- ci: test -->

```bash
third
```
<!-- ci: run -->
```bash
fourth
```
"""


@pytest.mark.parametrize(
    ("purpose", "found"), [("run", ["first\nsecond\n", "fourth\n"]), ("test", ["third\n"]), ("x", [])]
)
def test_marked_blocks_are_found(purpose, found):
    assert commands(README, purpose) == found
