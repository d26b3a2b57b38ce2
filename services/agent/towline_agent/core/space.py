"""Whether the disks have room for more runs, from what is free on them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from towline_agent.core.sizes import part

__all__ = ["Disk", "floor", "lacking", "shortage"]

_SHARE: Final = 0.05
_MOST_DEFAULT: Final = 10 * 2**30
# A node whose disk hovers about the bound must not come and go with every look.
_BACK_AT: Final = 0.6
_REFUSE_AT: Final = 0.5


@dataclass(frozen=True)
class Disk:
    """A file system.

    Attributes:
        path: A folder on it.
        holds: What is kept there, for people, such as "its Docker Engine keeps its data".
        free: Bytes that are free.
        total: Bytes that it has.
        clears: Whether it may get room when images, inputs and downloads go: others do not.
    """

    path: str
    holds: str
    free: int
    total: int
    clears: bool = True


def floor(disk: Disk, keep_free: int | None) -> int:
    """Return the bytes to keep free on a disk; None: a twentieth of it, 10 GiB at most."""
    return min(int(disk.total * _SHARE), _MOST_DEFAULT) if keep_free is None else keep_free


def shortage(disks: Sequence[Disk], keep_free: int | None) -> int:
    """Return the bytes that are to become free, so that each disk that clears has its floor; 0: all have."""
    return max([0, *(floor(disk, keep_free) - disk.free for disk in disks if disk.clears)])


def lacking(disks: Sequence[Disk], keep_free: int | None, before: str) -> str:
    """Say why runs have no room: less than half of what is to be kept free is; empty: they have.

    Args:
        disks: What the agent writes to.
        keep_free: See `floor`.
        before: What was said last; it stays until there is somewhat more than half.
    """
    for disk in disks:
        least = floor(disk, keep_free)
        if before and before.endswith(_place(disk)) and disk.free < least * _BACK_AT:
            return before
        if disk.free < least * _REFUSE_AT:
            return f"only {part(disk.free, least)} to be kept free are left {_place(disk)}"
    return ""


def _place(disk: Disk) -> str:
    return f"where {disk.holds} ({disk.path})"
