"""Virtual time for models: what is to happen when, processes that freeze and die, and a trace to read."""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

_KEPT = 400


class Timeline:
    """Runs what is due, in order of time; nothing else lets time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        """Events that were carried out."""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._trace: list[tuple[float, str, tuple[Any, ...]]] = []

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Have something done in a while."""
        heapq.heappush(self._due, (self.now + max(seconds, 0.0), next(self._numbers), do))

    def let(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, do = heapq.heappop(self._due)
            self.steps += 1
            do()
        self.now = end

    def note(self, form: str, *values: Any) -> None:
        """Add a line to the trace; it is formatted only if somebody reads it."""
        self._trace.append((self.now, form, values))

    def trace(self) -> str:
        """Return the last lines, oldest first."""
        lines = [f"{at:10.3f}  {form.format(*values)}" for at, form, values in self._trace[-_KEPT:]]
        left_out = len(self._trace) - len(lines)
        return "\n".join([f"({left_out} lines before)"] * bool(left_out) + lines)


class Process:
    """Something that can be frozen (SIGSTOP) and killed (SIGKILL), and loses what it had in mind.

    Args:
        timeline: Virtual time.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.alive = False
        self.frozen = False
        self._life = 0
        self._backlog: list[Callable[[], None]] = []

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something in a while, if this life of the process lasts; while it is frozen it waits."""
        life = self._life

        def run() -> None:
            if life != self._life:
                return
            if self.frozen:
                self._backlog.append(run)
            else:
                do()

        self.timeline.after(seconds, run)

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        backlog, self._backlog = self._backlog, []
        for run in backlog:
            self.timeline.after(0.0, run)

    def end(self) -> None:
        """Forget all that was planned."""
        self.alive = self.frozen = False
        self._life += 1
        self._backlog.clear()
