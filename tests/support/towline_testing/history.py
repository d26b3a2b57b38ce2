"""What happened to runs, and what must never have happened: the invariants, in one place.

The model checker and the chaos scenarios record the same events and ask the same `violations`. Pure: no
clock, no I/O. Events stand in the order in which they took effect; `at` is in seconds of any one clock.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Final, TypeAlias


@dataclass(frozen=True)
class Submitted:
    """A client was told that the run is queued."""

    at: float
    run: str


@dataclass(frozen=True)
class CancelAcknowledged:
    """A client was told that the run is to be stopped."""

    at: float
    run: str


@dataclass(frozen=True)
class Granted:
    """A lease was committed."""

    at: float
    run: str
    epoch: int
    agent: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeaseEnded:
    """A lease was committed to be over, whatever for: its GPUs are free from here on."""

    at: float
    run: str
    epoch: int


@dataclass(frozen=True)
class ResultCommitted:
    """A result of an attempt was committed; a repetition that changed nothing is no such event."""

    at: float
    run: str
    epoch: int
    finish_id: str


@dataclass(frozen=True)
class RunEnded:
    """A run was committed to be over."""

    at: float
    run: str
    state: str
    """SUCCEEDED, FAILED or CANCELLED."""


@dataclass(frozen=True)
class Started:
    """A container of an attempt began to run."""

    at: float
    run: str
    epoch: int
    container: str


@dataclass(frozen=True)
class Died:
    """A container ended."""

    at: float
    run: str
    epoch: int
    container: str


class Standing(StrEnum):
    """Where the database has a run."""

    WAITING = "waiting"
    """It has a place in a queue, or a time at which it gets one."""
    HELD = "held"
    """A lease of its newest epoch exists."""
    ENDED = "ended"
    """It is over, and nothing waits for it."""
    STUCK = "stuck"
    """None of these: nobody will ever end it."""
    GONE = "gone"
    """There is no such run."""


@dataclass(frozen=True)
class Seen:
    """The database was looked at."""

    at: float
    run: str
    standing: Standing


Event: TypeAlias = (
    Submitted | CancelAcknowledged | Granted | LeaseEnded | ResultCommitted | RunEnded | Started | Died | Seen
)


@dataclass
class History:
    """Events in the order in which they took effect."""

    events: list[Event] = field(default_factory=list)

    def add(self, *events: Event) -> None:
        self.events.extend(events)

    @property
    def submitted(self) -> list[str]:
        """Return the acknowledged runs, each once, oldest first."""
        return list(dict.fromkeys(event.run for event in self.events if isinstance(event, Submitted)))

    def by_run(self) -> dict[str, list[Event]]:
        """Return each run's own events, in order."""
        found: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            found[event.run].append(event)
        return dict(found)


class Kind(StrEnum):
    """Which invariant was broken."""

    LOST = "lost run"
    """An acknowledged run is neither waiting nor held nor ended."""
    STUCK = "run that cannot end"
    DUPLICATE = "duplicated result"
    """More than one result of an attempt, or more than one end of a run."""
    STALE = "stale write"
    """A result of an epoch that did not hold the run."""
    EPOCH = "epoch not new"
    DOUBLE_LEASE = "run leased twice"
    GPU = "GPU granted twice"
    OVERLAP = "overlapping containers"
    AGAIN = "attempt executed again"
    """A second container of one attempt was started."""
    AFTER_END = "something after the end"
    CANCEL = "granted after cancel"


@dataclass(frozen=True)
class Violation:
    """One broken invariant."""

    kind: Kind
    what: str
    """Names the runs, epochs and moments."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


def violations(history: History, *, all_ended: bool = False) -> list[Violation]:
    """Return every broken invariant; none: the history is one that Towline promises.

    Args:
        history: What happened.
        all_ended: Whether by now every acknowledged run should have ended: faults are over, and there
            was an agent and time for each.
    """
    found: list[Violation] = []
    for run, events in history.by_run().items():
        for check in _OF_A_RUN:
            found.extend(check(run, events))
    if all_ended:
        over = {event.run for event in history.events if isinstance(event, RunEnded)}
        left = [run for run in history.submitted if run not in over]
        found.extend(Violation(Kind.STUCK, f"{run} was acknowledged and has not ended") for run in left)
    found.extend(_gpus_exclusive(history.events))
    return found


def _kept(run: str, events: list[Event]) -> Iterator[Violation]:
    """Each acknowledged run is waiting, held or ended, whenever the database is looked at."""
    acknowledged = False
    for event in events:
        acknowledged |= isinstance(event, Submitted)
        if isinstance(event, Seen):
            if event.standing is Standing.GONE and acknowledged:
                yield Violation(Kind.LOST, f"{run} was acknowledged and is not there at {event.at:.3f}")
            if event.standing is Standing.STUCK:
                yield Violation(
                    Kind.STUCK, f"{run} neither waits nor is held nor has ended at {event.at:.3f}"
                )


def _ends_once(run: str, events: list[Event]) -> Iterator[Violation]:
    """A run ends at most once, and each of its attempts has at most one result."""
    ends = [event.state for event in events if isinstance(event, RunEnded)]
    if len(ends) > 1:
        yield Violation(Kind.DUPLICATE, f"{run} ended {len(ends)} times: {', '.join(ends)}")
    results: dict[int, list[str]] = defaultdict(list)
    for event in events:
        if isinstance(event, ResultCommitted):
            results[event.epoch].append(event.finish_id)
    for epoch, finish_ids in results.items():
        if len(finish_ids) > 1:
            yield Violation(Kind.DUPLICATE, f"{run} epoch {epoch} has results {', '.join(finish_ids)}")


def _epochs_rise(run: str, events: list[Event]) -> Iterator[Violation]:
    """Each lease of a run has a higher epoch than all before it."""
    highest = 0
    for event in events:
        if isinstance(event, Granted):
            if event.epoch <= highest:
                yield Violation(Kind.EPOCH, f"{run} was granted with epoch {event.epoch} after {highest}")
            highest = max(highest, event.epoch)


def _fenced(run: str, events: list[Event]) -> Iterator[Violation]:
    """Only the epoch that holds a run commits a result, and no run is held twice at once."""
    holder: int | None = None
    for event in events:
        match event:
            case Granted():
                if holder is not None:
                    yield Violation(
                        Kind.DOUBLE_LEASE, f"{run} was granted as {event.epoch} while {holder} held it"
                    )
                holder = event.epoch
            case ResultCommitted() if event.epoch != holder:
                by = "nobody" if holder is None else f"epoch {holder}"
                yield Violation(Kind.STALE, f"{run} took a result of epoch {event.epoch} while {by} held it")
            case LeaseEnded() if event.epoch == holder:
                holder = None
            case _:
                pass


def _overlap_free(run: str, events: list[Event]) -> Iterator[Violation]:
    """No two containers of one run ran at once."""
    lives: dict[str, tuple[int, float, float]] = {}
    for event in events:
        if isinstance(event, Started):
            lives[event.container] = (event.epoch, event.at, float("inf"))
        if isinstance(event, Died) and event.container in lives:
            epoch, start, _ = lives[event.container]
            lives[event.container] = (epoch, start, event.at)
    for (first, began, over), (second, begins, ends) in combinations(lives.values(), 2):
        if begins < over and began < ends:
            shared = min(over, ends) - max(began, begins)
            yield Violation(
                Kind.OVERLAP,
                f"{run}: containers of epochs {first} and {second} ran at once for {shared:.3f} s",
            )


def _executed_once(run: str, events: list[Event]) -> Iterator[Violation]:
    """An attempt is executed by one container, whatever became of it."""
    first: dict[int, str] = {}
    for event in events:
        if isinstance(event, Started) and first.setdefault(event.epoch, event.container) != event.container:
            what = f"{run}: {event.container} was started for epoch {event.epoch}"
            yield Violation(Kind.AGAIN, f"{what} after {first[event.epoch]}")


def _still_after_end(run: str, events: list[Event]) -> Iterator[Violation]:
    """Nothing happens to a run that has ended, but that its container dies and its lease goes."""
    ended = False
    for event in events:
        if ended and isinstance(event, Granted | ResultCommitted | Started):
            yield Violation(Kind.AFTER_END, f"{run} had ended when {event} happened")
        ended |= isinstance(event, RunEnded)


def _cancelled(run: str, events: list[Event]) -> Iterator[Violation]:
    """No lease is granted after a cancel was acknowledged."""
    asked = False
    for event in events:
        asked |= isinstance(event, CancelAcknowledged)
        if asked and isinstance(event, Granted):
            yield Violation(Kind.CANCEL, f"{run} was granted as {event.epoch} after its cancel")


_OF_A_RUN: Final = (
    _kept,
    _ends_once,
    _epochs_rise,
    _fenced,
    _overlap_free,
    _executed_once,
    _still_after_end,
    _cancelled,
)


def _gpus_exclusive(events: Iterable[Event]) -> Iterator[Violation]:
    """A GPU of an agent belongs to at most one lease."""
    users: dict[tuple[str, str], tuple[str, int]] = {}
    for event in events:
        if isinstance(event, Granted):
            for gpu in event.gpus:
                user = users.get((event.agent, gpu))
                if user is not None:
                    yield Violation(
                        Kind.GPU,
                        f"{gpu} of {event.agent}: {user} has it, granted to {event.run} {event.epoch}",
                    )
                users[event.agent, gpu] = (event.run, event.epoch)
        elif isinstance(event, LeaseEnded):
            freed = (event.run, event.epoch)
            users = {gpu: user for gpu, user in users.items() if user != freed}
