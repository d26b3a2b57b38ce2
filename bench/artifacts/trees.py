"""The folders that are moved: many small files, and a large one."""

import filecmp
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["SMALL_FILE_BYTES", "Tree", "make_large", "make_small", "same"]

SMALL_FILE_BYTES: Final = 8192
FILES_PER_FOLDER: Final = 100
BLOCK_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class Tree:
    """A folder and how much it holds."""

    root: Path
    files: int
    size_bytes: int


def make_small(root: Path, files: int) -> Tree:
    """Make a folder of so many files with random content, a hundred to a folder."""
    for number in range(files):
        if number % FILES_PER_FOLDER == 0:
            folder = root / f"{number // FILES_PER_FOLDER:04}"
            folder.mkdir(parents=True)
        (folder / f"{number:06}.bin").write_bytes(os.urandom(SMALL_FILE_BYTES))
    return Tree(root, files, files * SMALL_FILE_BYTES)


def make_large(root: Path, size_bytes: int) -> Tree:
    """Make a folder with one file of random content."""
    root.mkdir(parents=True)
    with (root / "large.bin").open("wb") as file:
        for start in range(0, size_bytes, BLOCK_BYTES):
            file.write(os.urandom(min(BLOCK_BYTES, size_bytes - start)))
    return Tree(root, 1, size_bytes)


def same(one: Path, other: Path) -> bool:
    """Compare two folders: the same files, byte for byte, and nothing else."""
    found = _files(one)
    return found == _files(other) and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in found
    )


def _files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
