"""What the agent's core asks its surroundings to do; each names the lease by its key."""

from dataclasses import dataclass
from datetime import timedelta

from towline.v1 import leases_pb2
from towline_agent.core.lease import Key
from towline_agent.core.stops import Exit, Stop

__all__ = [
    "Begin",
    "Clean",
    "DeadlinesChanged",
    "Effect",
    "Execute",
    "Forget",
    "KeepExit",
    "KeepFinish",
    "KeepGrant",
    "KeepStart",
    "Kill",
    "Permit",
    "StopContainer",
]


@dataclass(frozen=True)
class KeepGrant:
    """Write the grant to the journal; then `grant_kept` or `grant_not_kept`."""

    key: Key
    grant: leases_pb2.Grant


@dataclass(frozen=True)
class Execute:
    """Bring the attempt to a result: find its container, or make it; then `ended`.

    A container is started only after Permit, and once `starts` says so after Begin. One that had begun and
    is gone is never made again. `started` and `exited` tell of it meanwhile.
    """

    key: Key


@dataclass(frozen=True)
class Permit:
    """The attempt's container may be started, once the deadlines on disk cover it."""

    key: Key


@dataclass(frozen=True)
class Begin:
    """Ask `starts` again once the deadlines on disk say that the attempt has begun."""

    key: Key


@dataclass(frozen=True)
class StopContainer:
    """Stop the attempt: note it, put the stop file into its container, send the signal.

    `announced` comes just before the file, `signalled` just before the signal.

    It may come again with a stronger reason: the stop file is replaced, and no second signal is sent.
    Where there is no container yet, none is started any more. SIGKILL is Kill's.
    """

    key: Key
    stop: Stop


@dataclass(frozen=True)
class Kill:
    """Send SIGKILL to the attempt's container."""

    key: Key


@dataclass(frozen=True)
class KeepStart:
    """Write to the journal when the container was started; a failure costs no more than a warning."""

    key: Key
    at: float


@dataclass(frozen=True)
class KeepExit:
    """Write to the journal how the container ended; a failure costs no more than a warning."""

    key: Key
    exit: Exit


@dataclass(frozen=True)
class KeepFinish:
    """Write the result to the journal; then `finish_kept` or `finish_not_kept`."""

    key: Key
    finish: leases_pb2.Finish


@dataclass(frozen=True)
class Clean:
    """End what is at work on the attempt and remove its container and its logs' remains; then `removed`."""

    key: Key
    grace: timedelta | None
    """Time between stop signal and SIGKILL for a container that runs; None: it has ended."""


@dataclass(frozen=True)
class Forget:
    """Remove the attempt from the journal; nothing of it is left."""

    key: Key
    grant: leases_pb2.Grant


@dataclass(frozen=True)
class DeadlinesChanged:
    """Write LeaseBook.windows() to disk, where the watchdog reads them."""


Effect = (
    KeepGrant
    | Execute
    | Permit
    | Begin
    | StopContainer
    | Kill
    | KeepStart
    | KeepExit
    | KeepFinish
    | Clean
    | Forget
    | DeadlinesChanged
)
