"""What can happen to a session, and what a session wants done: the whole interface of `SessionProtocol`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from towline.errors import TowlineError
from towline.v1 import leases_pb2
from towline_queue.core import leases
from towline_queue.core.leases import Claimed, LiveLease, Opening, Reconciled, Renewal, SessionKey
from towline_queue.core.reports import Report, ReportAnswer
from towline_queue.core.sessions import Inventory

__all__ = [
    "AgentEvent",
    "Broken",
    "Close",
    "Commit",
    "Drain",
    "DrainWanted",
    "Drained",
    "Effect",
    "Event",
    "Failed",
    "Goodbye",
    "Granted",
    "Hello",
    "Leave",
    "Left",
    "Open",
    "Opened",
    "OutboxFull",
    "ProcessEvent",
    "Renew",
    "Renewed",
    "Reported",
    "Said",
    "Send",
    "ServiceStops",
    "Settle",
    "Settled",
    "StopWanted",
    "StoreAnswer",
    "StoreCall",
    "Superseded",
    "WakeDispatcher",
    "Withheld",
    "Withhold",
]


# Events from the agent


@dataclass(frozen=True)
class Hello:
    """The stream's first message came."""

    message: leases_pb2.StreamLeasesRequest


@dataclass(frozen=True)
class Said:
    """Messages came after the first one, in this order; not while a call to the store is under way."""

    messages: Sequence[leases_pb2.StreamLeasesRequest]


@dataclass(frozen=True)
class Goodbye:
    """The agent has ended its side in order; not while a call to the store is under way."""


@dataclass(frozen=True)
class Broken:
    """The stream broke: nothing reaches the agent on it any more."""


# Events that answer a call to the store, after its commit


@dataclass(frozen=True)
class Opened:
    """Answers `Open`."""

    opened: leases.Opened


@dataclass(frozen=True)
class Reported:
    """Answers `Commit`."""

    answer: ReportAnswer


@dataclass(frozen=True)
class Drained:
    """Answers `Drain`."""


@dataclass(frozen=True)
class Withheld:
    """Answers `Withhold`."""


@dataclass(frozen=True)
class Renewed:
    """Answers `Renew`; None: superseded."""

    renewal: Renewal | None


@dataclass(frozen=True)
class Settled:
    """Answers `Settle`; None: superseded."""

    reconciled: Reconciled | None


@dataclass(frozen=True)
class Left:
    """Answers `Leave`."""


@dataclass(frozen=True)
class Failed:
    """Answers any call to the store that failed for good."""

    error: TowlineError


# Events from this process


@dataclass(frozen=True)
class Granted:
    """Claims of this session are committed; each comes with the number its credits were spent under."""

    leases: Sequence[tuple[Claimed, int]]


@dataclass(frozen=True)
class StopWanted:
    """One of the session's attempts is to be stopped; its `stop` says why."""

    lease: LiveLease


@dataclass(frozen=True)
class DrainWanted:
    """The agent shall take no more runs."""


@dataclass(frozen=True)
class Superseded:
    """The agent has opened a newer session at this process."""


@dataclass(frozen=True)
class OutboxFull:
    """A message could not be queued: the agent does not read."""


@dataclass(frozen=True)
class ServiceStops:
    """The process ends; agents come back after a while and a random part of the jitter."""

    reconnect_after: timedelta
    jitter: timedelta


AgentEvent: TypeAlias = Hello | Said | Goodbye | Broken
StoreAnswer: TypeAlias = Opened | Reported | Drained | Withheld | Renewed | Settled | Left | Failed
ProcessEvent: TypeAlias = Granted | StopWanted | DrainWanted | Superseded | OutboxFull | ServiceStops
Event: TypeAlias = AgentEvent | StoreAnswer | ProcessEvent


# Effects that call the store; each is answered by its event, or by `Failed`


@dataclass(frozen=True)
class Open:
    """Open the session: `LeaseStore.open_sessions`."""

    opening: Opening


@dataclass(frozen=True)
class Commit:
    """Carry out a report: `LeaseStore.carry_out`."""

    agent: str
    report: Report


@dataclass(frozen=True)
class Drain:
    """Keep the agent from getting more runs: `LeaseStore.drain`."""

    session: SessionKey


@dataclass(frozen=True)
class Withhold:
    """Note why the agent takes no runs now, empty: it does: `LeaseStore.withhold`."""

    session: SessionKey
    why: str


@dataclass(frozen=True)
class Renew:
    """Renew the session: `LeaseStore.renew`.

    Attributes:
        session: The session.
        look: Whether its leases are to be read; without them the answer tells no loss and no stop.
        within: How long it may wait for others, to be carried out with them.
    """

    session: SessionKey
    look: bool = True
    within: timedelta = timedelta(0)


@dataclass(frozen=True)
class Settle:
    """Compare an inventory: `LeaseStore.settle`."""

    session: SessionKey
    inventory: Inventory


@dataclass(frozen=True)
class Leave:
    """End the session in order: `LeaseStore.leave`."""

    session: SessionKey


StoreCall: TypeAlias = Open | Commit | Drain | Withhold | Renew | Settle | Leave


# Effects that are carried out at once


@dataclass(frozen=True)
class Send:
    """Queue a message to the agent; where it has no room, `OutboxFull` follows."""

    message: leases_pb2.StreamLeasesResponse


@dataclass(frozen=True)
class WakeDispatcher:
    """The agent's credits are new."""


@dataclass(frozen=True)
class Close:
    """End the stream after what is queued: in order, or with an error."""

    error: TowlineError | None


Effect: TypeAlias = StoreCall | Send | WakeDispatcher | Close
