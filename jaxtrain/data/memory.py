"""How much memory the host has, and whether data that is to be read will fit into it.

Imports nothing of jaxtrain but `errors`. The surprise: half of the memory is what counts, for `from_arrays` puts the
examples of the splits one behind the other, and what was read is there until that is done.
"""

import os
from pathlib import Path

from jaxtrain.errors import WorldError


def host_memory() -> int | None:
    """Bytes of memory of this machine, in use or not; None where the system does not say."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def check_fits(path: Path, num_bytes: int) -> None:
    """Raise a WorldError if arrays of so many bytes, to be read from `path`, are more than half of the memory."""
    memory = host_memory()
    if memory is not None and num_bytes > memory / 2:
        raise WorldError(
            f"{path} holds arrays of {num_bytes / 1e6:,.0f} MB, expected at most half of the {memory / 1e6:,.0f} MB of"
            " memory; make it smaller"
        )
