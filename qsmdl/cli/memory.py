"""How the C library handles the memory of volumes, which come and go by the thousand."""

import ctypes
import os
import platform

_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD = -4, -1, -2
"""Parameters of `mallopt` (malloc.h)."""
_SETTINGS = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 1 << 28}


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to 2 GiB, in place of giving it back to the system; whether that was possible (glibc only).

    A volume is larger than what glibc keeps, so every intermediate result is mapped, zeroed page by page and unmapped: a fifth of the time of an
    iterative solver on two busy cores (docs/real-size.md). Not done where the environment sets one of MALLOC_*.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS.items())
