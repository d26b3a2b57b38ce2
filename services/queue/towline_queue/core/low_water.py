"""Where to begin to look for waiting runs: past those that were handed out, whose rows may still be there.

While any transaction holds an old snapshot, PostgreSQL cannot clear away what was deleted since, and whoever
looks for the first run of a lane would have to step over all of it. The marks are advice, not truth: a run
may come to stand before one, because it waits again at its old place, or because a transaction that began
early was committed late. So a mark counts only a while after it was made, and searches without any of them
come once in a while.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from towline_queue.core.matching import Lane

__all__ = ["LowWater"]

_SETTLES_S: Final = 1.0
"""Longer than a submission takes from its sequence number to its commit, but for rare ones."""

_Level = tuple[Lane, int]


class LowWater:
    """For each lane and priority, the sequence number that the next run to be found has at least.

    Args:
        priorities: All of them, the first one first.
    """

    def __init__(self, priorities: Sequence[int]) -> None:
        self._priorities = priorities
        self._settled: dict[_Level, int] = {}
        self._settling: dict[_Level, int] = {}
        self._latest: dict[_Level, int] = {}
        self._turned_s = float("-inf")

    def floors(self, lane: Lane, now_s: float) -> list[int]:
        """Return the marks of a lane, one per priority.

        Args:
            lane: The lane.
            now_s: Seconds by a clock that does not jump.
        """
        if now_s - self._turned_s > _SETTLES_S:
            self._settled, self._settling = self._settling, dict(self._latest)
            self._turned_s = now_s
        return [self._settled.get((lane, priority), 0) for priority in self._priorities]

    def taken(self, lane: Lane, places: Iterable[tuple[int, int]]) -> None:
        """Note runs that a search has taken, (priority, sequence number) each, in order.

        A search takes the first ones there are, so what is left begins after the last one of each priority.
        """
        for priority, seq in dict(places).items():
            level = (lane, priority)
            self._latest[level] = seq + 1
            for marks in (self._settled, self._settling):
                if marks.get(level, 0) > seq:
                    marks[level] = seq + 1

    def lower(self, lane: Lane, places: Sequence[tuple[int, int]]) -> None:
        """Note runs that a search without marks has found, (priority, sequence number) each, in order.

        It may have ended at the last of them: so what is left, and every later priority, begins there.
        """
        first = dict(reversed(places))
        last = max(first, default=0)
        for priority in self._priorities:
            level = (lane, priority)
            for marks in (self._settled, self._settling, self._latest):
                if level in marks:
                    marks[level] = min(
                        marks[level], first.get(priority, 0 if priority > last else marks[level])
                    )
