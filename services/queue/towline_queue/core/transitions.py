"""The state machine of a run: the only place that says which moves exist, and who may make them.

Every statement that moves a run is a compare-and-set on one `Transition` of `TABLE`: it changes rows
in `sources` to `target` under `guard`, and what matches no row is stale and dropped. The picture in
ARCHITECTURE.md is `mermaid()`; a test compares the two.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

__all__ = [
    "ACTIVE",
    "BEGIN_PREPARING",
    "BEGIN_RUNNING",
    "BEGIN_STOPPING",
    "CANCEL_GIVEN_BACK",
    "CANCEL_LOST",
    "CANCEL_RETRY",
    "CANCEL_WAITING",
    "CLAIM",
    "EXPIRE_WAITING",
    "FINISH_CANCELLED",
    "FINISH_FAILED",
    "FINISH_SUCCEEDED",
    "GIVE_UP_LOST",
    "PROGRESS",
    "PROMOTE",
    "RELEASE",
    "REQUEUE_LOST",
    "REQUEUE_PREEMPTED",
    "RETRY",
    "RETURN",
    "TABLE",
    "TERMINAL",
    "WAITING",
    "Actor",
    "State",
    "Transition",
    "mermaid",
]


class State(IntEnum):
    """Where a run stands; numbers and names are those of towline.v1.RunState."""

    SCHEDULED = 1
    QUEUED = 2
    LEASED = 3
    PREPARING = 4
    RUNNING = 5
    STOPPING = 6
    SUCCEEDED = 7
    FAILED = 8
    CANCELLED = 9


WAITING: Final = frozenset({State.SCHEDULED, State.QUEUED})
"""Nobody holds the run."""
ACTIVE: Final = frozenset({State.LEASED, State.PREPARING, State.RUNNING, State.STOPPING})
"""An agent holds a lease on the run; a row of `leases` exists in exactly these states."""
TERMINAL: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
"""The run has ended; no transition leaves these states."""


class Actor(StrEnum):
    """Who may make a transition."""

    PROMOTER = "promoter"
    DISPATCHER = "dispatcher"
    AGENT = "agent"
    """The session that holds the lease, by what it says on its stream."""
    QUEUE = "queue"
    """The service by itself: an answer that did not come, a retry."""
    REAPER = "reaper"
    API = "API"


@dataclass(frozen=True)
class Transition:
    """One permitted move.

    Attributes:
        name: What happens, in words for people.
        sources: States it leaves.
        target: State it reaches.
        actor: Who makes it.
        guard: What must hold in the same statement, besides the state.
    """

    name: str
    sources: frozenset[State]
    target: State
    actor: Actor
    guard: str = ""


def _move(
    name: str, sources: set[State] | frozenset[State], target: State, actor: Actor, guard: str = ""
) -> Transition:
    return Transition(name, frozenset(sources), target, actor, guard)


PROMOTE: Final = _move("due", {State.SCHEDULED}, State.QUEUED, Actor.PROMOTER, "due time reached")
CLAIM: Final = _move("claim", {State.QUEUED}, State.LEASED, Actor.DISPATCHER, "row lock, epoch + 1")
CANCEL_WAITING: Final = _move("cancel", WAITING, State.CANCELLED, Actor.API)
EXPIRE_WAITING: Final = _move(
    "waited too long", {State.QUEUED}, State.FAILED, Actor.REAPER, "row lock, max_wait is over"
)

# Progress only goes forward, and may skip: an agent that was away tells where it stands now.
BEGIN_PREPARING: Final = _move("prepares", {State.LEASED}, State.PREPARING, Actor.AGENT, "epoch")
BEGIN_RUNNING: Final = _move("runs", {State.LEASED, State.PREPARING}, State.RUNNING, Actor.AGENT, "epoch")
BEGIN_STOPPING: Final = _move(
    "stops", {State.LEASED, State.PREPARING, State.RUNNING}, State.STOPPING, Actor.AGENT, "epoch"
)

PROGRESS: Final = (BEGIN_PREPARING, BEGIN_RUNNING, BEGIN_STOPPING)
"""What an agent tells on the way: every move forward within ACTIVE, so that of two states the later holds."""

FINISH_SUCCEEDED: Final = _move("finish", ACTIVE, State.SUCCEEDED, Actor.AGENT, "epoch")
FINISH_FAILED: Final = _move(
    "finish", ACTIVE, State.FAILED, Actor.AGENT, "epoch, no retries left for that cause"
)
FINISH_CANCELLED: Final = _move("finish", ACTIVE, State.CANCELLED, Actor.AGENT, "epoch")

RETURN: Final = _move(
    "rejected or unanswered", {State.LEASED}, State.QUEUED, Actor.QUEUE, "epoch, no cancel requested"
)
# The container has not started, so nothing of the run's own code has had any effect.
RELEASE: Final = _move(
    "release", {State.LEASED, State.PREPARING}, State.QUEUED, Actor.AGENT, "epoch, no cancel requested"
)
CANCEL_GIVEN_BACK: Final = _move(
    "given back", {State.LEASED, State.PREPARING}, State.CANCELLED, Actor.QUEUE, "epoch, cancel requested"
)
# An agent's failed result; the attempt has ended, the run has not.
RETRY: Final = _move(
    "retry", ACTIVE, State.SCHEDULED, Actor.QUEUE, "epoch, retries left for that cause, no cancel requested"
)
REQUEUE_PREEMPTED: Final = _move(
    "preempted", ACTIVE, State.QUEUED, Actor.QUEUE, "epoch, retries left, no cancel requested"
)
CANCEL_RETRY: Final = _move(
    "not tried again", ACTIVE, State.CANCELLED, Actor.QUEUE, "epoch, cancel requested"
)

# The session expired, or its agent says that it no longer has the run or had to stop it unrenewed.
REQUEUE_LOST: Final = _move(
    "lost",
    ACTIVE,
    State.QUEUED,
    Actor.REAPER,
    "epoch, lease expired or gone, retries left, no cancel requested",
)
GIVE_UP_LOST: Final = _move(
    "lost", ACTIVE, State.FAILED, Actor.REAPER, "epoch, lease expired or gone, no retries left"
)
CANCEL_LOST: Final = _move(
    "lost", ACTIVE, State.CANCELLED, Actor.REAPER, "epoch, lease expired or gone, cancel requested"
)

TABLE: Final = (
    PROMOTE,
    CLAIM,
    CANCEL_WAITING,
    EXPIRE_WAITING,
    *PROGRESS,
    FINISH_SUCCEEDED,
    FINISH_FAILED,
    FINISH_CANCELLED,
    RETURN,
    RELEASE,
    CANCEL_GIVEN_BACK,
    RETRY,
    REQUEUE_PREEMPTED,
    CANCEL_RETRY,
    REQUEUE_LOST,
    GIVE_UP_LOST,
    CANCEL_LOST,
)


def mermaid() -> str:
    """Draw `TABLE` as a Mermaid state diagram, one arrow for each transition and source."""
    lines = ["stateDiagram-v2", "    [*] --> SCHEDULED", "    [*] --> QUEUED", "    state ACTIVE {"]
    inside = [move for move in TABLE if move.target in ACTIVE and move.sources <= ACTIVE]
    lines += [f"        {arrow}" for move in inside for arrow in _arrows(move)]
    lines += ["    }"]
    lines += [f"    {arrow}" for move in TABLE if move not in inside for arrow in _arrows(move)]
    lines += [f"    {state.name} --> [*]" for state in sorted(TERMINAL)]
    return "\n".join(lines) + "\n"


def _arrows(move: Transition) -> list[str]:
    sources = ["ACTIVE"] if move.sources == ACTIVE else [state.name for state in sorted(move.sources)]
    guard = f" [{move.guard}]" if move.guard else ""
    return [f"{source} --> {move.target.name}: {move.actor}, {move.name}{guard}" for source in sources]
