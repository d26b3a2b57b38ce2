"""Files that survive a power cut."""

import os
from pathlib import Path

__all__ = ["settle"]


def settle(path: Path) -> None:
    """Make the bytes of a file, or the entries of a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
