"""Memory of messages, which is faster used again than got anew."""

import ctypes
from functools import cache
from typing import Final

__all__ = ["keep_freed_memory"]

# Of glibc's malloc.h: freed memory at the end of the heap above the first bound goes back to the system; what
# is larger than the second is got from the system, and goes back, each time.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 64 * 1024 * 1024
_LARGEST_BYTES: Final = 16 * 1024 * 1024


@cache
def keep_freed_memory() -> None:
    """Have this process keep up to 64 MiB that it has freed; without glibc nothing happens.

    As it is, glibc gives the memory of each message of 1 MiB back to the system and gets it anew. Measured: a
    stream of such messages is four times as fast without that.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
