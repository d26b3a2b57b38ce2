"""How large a source tree may be, and what people are told of a large one."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from towline.capture.ignore import IGNORE_FILE
from towline.errors import FailedPrecondition

__all__ = ["bounded", "check", "notice"]

# What an agent unpacks, by default.
MOST_BYTES: Final = 64 * 1024**3
MOST_FILES: Final = 1_000_000
# From here on people are told what is large.
MANY_BYTES: Final = 100 * 1024**2
MANY_FILES: Final = 10_000
_NAMED: Final = 3
_WORTH_NAMING: Final = 10 * 1024**2


def bounded(paths: Iterable[str], root: Path) -> Iterator[str]:
    """Stop before a whole disk is listed because a script lies in its top folder."""
    for count, path in enumerate(paths):
        if count == MOST_FILES:
            raise FailedPrecondition(
                f"{root} has more than {MOST_FILES:,} files; put the script into a folder of its own, make "
                f"that a git repository, or leave folders out with {IGNORE_FILE}",
                reason="SOURCE_TOO_LARGE",
            )
        yield path


def check(files: Sequence[tuple[str, int]]) -> None:
    """Refuse what no agent unpacks.

    Args:
        files: Path and size in bytes of each file.

    Raises:
        FailedPrecondition: More than 64 GiB, or more than a million files; reason SOURCE_TOO_LARGE.
    """
    total = sum(size for _, size in files)
    if total <= MOST_BYTES and len(files) <= MOST_FILES:
        return
    raise FailedPrecondition(
        f"the source tree has {_mib(total)} in {len(files):,} files; agents take {_mib(MOST_BYTES)} in "
        f"{MOST_FILES:,} files at most. The largest are {_largest(files)}; leave out what is no source with "
        f"{IGNORE_FILE}",
        reason="SOURCE_TOO_LARGE",
    )


def notice(files: Sequence[tuple[str, int]]) -> str | None:
    """Tell people of a large tree, and where most of it lies.

    Args:
        files: Path and size in bytes of each file.
    """
    total = sum(size for _, size in files)
    if total <= MANY_BYTES and len(files) <= MANY_FILES:
        return None
    sizes, counts = Counter[str](), Counter[str]()
    for path, size in files:
        top, inside, _ = path.partition("/")
        sizes[top + inside] += size
        counts[top + inside] += 1
    ((most, _),) = (sizes if total > MANY_BYTES else counts).most_common(1)
    named = _largest([file for file in files if file[1] >= _WORTH_NAMING])
    largest = f"; the largest files are {named}" if named and most.endswith("/") else ""
    return (
        f"the snapshot is large: {_mib(total)} in {len(files):,} files, most of it in {most} "
        f"({_mib(sizes[most])} in {counts[most]:,} files){largest}; leave out what is no source with "
        f"{IGNORE_FILE}"
    )


def _largest(files: Sequence[tuple[str, int]]) -> str:
    largest = sorted(files, key=lambda file: (-file[1], file[0]))[:_NAMED]
    return ", ".join(f"{path} ({_mib(size)})" for path, size in largest)


def _mib(size: int) -> str:
    return f"{size / 1024**2:,.0f} MiB"
