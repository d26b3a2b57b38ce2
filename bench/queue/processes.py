"""What processes have used, from /proc: CPU seconds of whole trees, ended children included, and memory."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["cpu_seconds", "resident_kib"]

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE_KIB: Final = os.sysconf("SC_PAGE_SIZE") // 1024
PARENT: Final = 1
# utime, stime, and those of children that were waited for; positions after the name's closing bracket.
TIMES: Final = slice(11, 15)


def cpu_seconds(*roots: int) -> float:
    """Return the CPU seconds of these processes and all below them, those that have ended included."""
    # A child that ends meanwhile would be missed, or counted in its parent too: look again then.
    before, used = {}, _used(roots)
    while before.keys() != used.keys():
        before, used = used, _used(roots)
    return sum(used.values()) / TICKS


def _used(roots: Sequence[int]) -> dict[int, int]:
    """Return the ticks used by each process of the trees and its ended children."""
    children: dict[int, list[int]] = defaultdict(list)
    used: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            used[int(entry.name)] = sum(map(int, fields[TIMES]))
            children[int(fields[PARENT])].append(int(entry.name))
    tree = {pid: used[pid] for pid in roots}
    todo = list(roots)
    while todo:
        below = children[todo.pop()]
        tree |= {pid: used[pid] for pid in below}
        todo += below
    return tree


def resident_kib(pid: int) -> int:
    """Return how much memory a process has in RAM, in KiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KIB


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # it ended just now
        return []
