"""What the lease side and its store tell each other: sessions, leases, and what became of attempts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from towline.errors import NotFound
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import LeasePolicy, strictest
from towline_queue.core.reports import ReportAnswer
from towline_queue.core.sessions import InventoryEntry, Reconciliation
from towline_queue.core.stops import Stop
from towline_queue.core.transitions import State

__all__ = [
    "CarriedOut",
    "Claimed",
    "Ended",
    "LiveLease",
    "Newcomer",
    "Opened",
    "Opening",
    "Ready",
    "Reconciled",
    "Renewal",
    "SessionKey",
    "session_policy",
]


class SessionKey(NamedTuple):
    """What every write about a session compares: its id, and the agent, "agents/{agent}", that it is of."""

    id: UUID
    agent: str


@dataclass(frozen=True)
class Newcomer:
    """Who opens a session, from its Hello.

    Attributes:
        agent: "agents/{agent}".
        instance_id: Tells a restart from another agent of the same name.
        boot_id: This boot of the node.
        fresh: Whether the process has just started, so that an operator's drain no longer holds.
        facts: What people want to know of the agent: the remaining columns of `agents`.
        hello_seq: Rises with each Hello of the instance; 0: not told.
    """

    agent: str
    instance_id: str
    boot_id: str
    fresh: bool
    facts: Mapping[str, Any]
    hello_seq: int = 0


@dataclass(frozen=True)
class Opening:
    """A session to be opened: its new id, whose it is, the queues it serves, and all that the agent holds."""

    session: UUID
    newcomer: Newcomer
    queues: tuple[str, ...]
    entries: Sequence[InventoryEntry]


class Ended(NamedTuple):
    """An attempt that is over, and where its run went: QUEUED, SCHEDULED or a terminal state."""

    key: AttemptKey
    queue: str
    state: State


@dataclass(frozen=True)
class Ready:
    """A run that waits for an agent now."""

    run: str
    queue: str


@dataclass(frozen=True)
class Reconciled:
    """An inventory compared with the database, and the attempts that are over by it."""

    outcome: Reconciliation
    ended: Sequence[Ended]


@dataclass(frozen=True)
class Opened:
    """A session that is open.

    Attributes:
        epoch: Rises with each session of an agent.
        draining: Whether the agent is to take no more runs.
        policy: The strictest of its queues' policies: heartbeat interval and silence until it is
            unreachable. How long a lease holds is the lease's own.
        missing_queues: Those it asked for that do not exist.
        reconciled: What became of its inventory.
    """

    epoch: int
    draining: bool
    policy: LeasePolicy
    missing_queues: tuple[str, ...]
    reconciled: Reconciled


@dataclass(frozen=True)
class LiveLease:
    """One lease of a session; `stop` is there if its attempt is to be stopped."""

    key: AttemptKey
    session: UUID
    stop: Stop | None


@dataclass(frozen=True)
class Renewal:
    """One session renewed, and all leases it has now; None: nobody looked."""

    draining: bool
    leases: Sequence[LiveLease] | None


class Claimed(NamedTuple):
    """One new lease; they are many, and made at once.

    Attributes:
        key: The run and its new epoch.
        session: Whose it is.
        number: 1 for the first attempt of the run.
        spec: towline.v1.LaunchSpec, serialized.
        gpu_ids: GPUs to use.
        ttl: How long it holds without a renewal: the `lost_after` that the run's queue has now.
    """

    key: AttemptKey
    session: UUID
    number: int
    spec: bytes
    gpu_ids: tuple[str, ...]
    ttl: timedelta


@dataclass(frozen=True)
class CarriedOut:
    """What became of reports, to be told after the commit.

    Attributes:
        answers: One per report, in order.
        advanced: Runs whose attempts moved and go on.
        ended: Attempts that are over: finished, refused, or given back.
    """

    answers: Sequence[ReportAnswer]
    advanced: frozenset[str]
    ended: Sequence[Ended]


def session_policy(
    policies: Mapping[str, LeasePolicy], wanted: Sequence[str]
) -> tuple[LeasePolicy, tuple[str, ...]]:
    """Return what holds for a session, and the queues it asked for that do not exist.

    A queue that was deleted must not keep its agent from the others.

    Args:
        policies: Of queues that exist, these among them.
        wanted: Names of the queues that the agent serves.

    Raises:
        NotFound: None of them exists; QUEUE_NOT_FOUND.
    """
    missing = tuple(queue for queue in wanted if queue not in policies)
    if len(missing) == len(wanted):
        raise NotFound(
            f"hello.queues: {', '.join(missing)} not found; create it first "
            "(towline queue create), or take it out of the agent's queues",
            reason="QUEUE_NOT_FOUND",
            metadata={"queue": missing[0]},
        )
    return strictest(policies[queue] for queue in wanted if queue in policies), missing
