"""One lease in this agent's hands: what is known of it, and until when its container may run."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NamedTuple

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core.phases import Phase, Step, after, run_state, works
from towline_agent.core.stops import Exit, Stop, StopReason, Window

__all__ = ["GotImage", "Key", "Lease"]

Key = tuple[str, int]
"""Lease id and epoch."""

# Where the launch spec has none: the queue service's own default.
_GRACE: Final = timedelta(seconds=15)
# A quarter of the time is kept back: half of that for the stop signal to work, the rest so that the
# container is dead well before another agent may be given the run.
_STOP_AT: Final = 3 / 4
_KILL_AT: Final = 7 / 8
_NEVER: Final = float("inf")


class GotImage(NamedTuple):
    """How an attempt got its image, or did not."""

    outcome: runs_pb2.ImageOutcome.ValueType = runs_pb2.IMAGE_OUTCOME_UNSPECIFIED
    id: str = ""
    how: runs_pb2.AttemptImage | None = None
    """What was done for it; None: nothing."""


@dataclass
class Lease:
    """One lease. All moments are seconds of CLOCK_BOOTTIME."""

    grant: leases_pb2.Grant
    renewed_at: float
    """When the last word of this agent was sent that the queue service has acknowledged as a renewal."""
    phase: Phase = Phase.OFFERED
    answered: bool = False
    """Whether the queue service was told that the grant is taken, or says itself that it is."""
    adopted: bool = False
    """Whether the queue service has told this process that the lease is this agent's."""
    permitted: bool = False
    """Whether its container may be started: the queue service has acknowledged that the grant was taken."""
    begun: bool = False
    """Whether its container may have been started, by an earlier start of the agent if not by this one.

    It is on disk before the engine is asked: a container that is gone then is never made again."""
    executing: bool = False
    """Whether something is at work on it."""
    container_id: str = ""
    limit_at: float = _NEVER
    """When its time limit is over."""
    stop: Stop | None = None
    signalled_at: float | None = None
    """When the program was first told to stop: just before the stop file came, and the signal after it."""
    kill_at: float = _NEVER
    """When an ordered stop ends in SIGKILL."""
    killed: bool = False
    exit: Exit | None = None
    finish: leases_pb2.Finish | None = None
    finish_kept: bool = False
    """Whether the result is on disk."""
    retry_at: float = _NEVER
    """When to try again to write the result."""
    image: GotImage | None = None
    _events: dict[runs_pb2.RunState.ValueType, leases_pb2.RunEvent] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Return lease id and epoch."""
        return self.grant.lease_id, self.grant.epoch

    @property
    def spec(self) -> runs_pb2.LaunchSpec:
        """Return what to execute."""
        return self.grant.spec

    @property
    def grace(self) -> timedelta:
        """Return the time between stop signal and SIGKILL that its queue sets."""
        return self.spec.stop_grace.ToTimedelta() if self.spec.HasField("stop_grace") else _GRACE

    @property
    def max_runtime(self) -> float:
        """Return the time limit in seconds, infinity if there is none."""
        limits = self.spec.limits
        return limits.max_runtime.ToTimedelta().total_seconds() if limits.HasField("max_runtime") else _NEVER

    @property
    def ttl(self) -> float:
        """Return how long it holds without a renewal, in seconds."""
        return self.grant.ttl.ToTimedelta().total_seconds()

    @property
    def stop_at(self) -> float:
        """Return when its container is to be stopped unless the lease is renewed before."""
        return self.renewed_at + self.ttl * _STOP_AT

    @property
    def dead_by(self) -> float:
        """Return when its container has to be dead unless the lease is renewed before."""
        return self.renewed_at + self.ttl * _KILL_AT

    def hold_until(self, stop_at: float) -> None:
        """Take the moment at which it is to be stopped, and with it when it was renewed."""
        self.renewed_at = stop_at - self.ttl * _STOP_AT

    @property
    def at_risk(self) -> bool:
        """Tell whether its container may run, so that somebody has to see to its end.

        RELEASED is among them as it is none on disk: another start of the agent may yet have to begin.
        """
        return (works(self.phase) and self.exit is None) or self.phase in (Phase.DROPPED, Phase.RELEASED)

    @property
    def returnable(self) -> bool:
        """Tell whether it can be given back as if it had never been granted: nothing has begun."""
        return self.phase in (Phase.LEASED, Phase.PREPARING) and not self.begun

    @property
    def window(self) -> Window:
        """Return when its container is to be stopped and killed if nobody says anything more."""
        kill_at = min(self.kill_at, self.dead_by)
        if self.signalled_at is not None or self.phase is Phase.DROPPED:
            # The signal was sent: whoever else watches shall not send another.
            return Window(kill_at, kill_at, self.stop.reason if self.stop else StopReason.EXPIRED)
        if self.limit_at < self.stop_at:
            kill_at = min(kill_at, self.limit_at + self.grace.total_seconds())
            return Window(self.limit_at, kill_at, StopReason.TIMEOUT)
        return Window(self.stop_at, kill_at, StopReason.EXPIRED)

    def advance(self, step: Step) -> None:
        """Move on in the table of phases."""
        self.phase = after(self.phase, step)

    def stopped_by(self) -> Stop | None:
        """Return the order that ended the attempt, or None where it ended by itself.

        A container that ended before it was told to keeps its own result, whatever was ordered.
        """
        if self.stop is None:
            return None
        if self.exit is None:
            return self.stop
        return self.stop if self.signalled_at is not None and self.exit.at >= self.signalled_at else None

    def tell(self, detail: str, event_seq: int) -> None:
        """Say for people what it does now; the last word of each state is kept."""
        state = run_state(self.phase)
        if state == runs_pb2.RUN_STATE_LEASED:
            return
        self._events[state] = leases_pb2.RunEvent(
            lease_id=self.grant.lease_id,
            epoch=self.grant.epoch,
            event_seq=event_seq,
            state=state,
            detail=detail,
            image_outcome=self.image.outcome if self.image else runs_pb2.IMAGE_OUTCOME_UNSPECIFIED,
            image_id=self.image.id if self.image else "",
            image=self.image.how if self.image else None,
        )

    def events_after(self, event_seq: int) -> list[leases_pb2.RunEvent]:
        """Return events that came after one, in order: at most one for each state."""
        events = (event for event in self._events.values() if event.event_seq > event_seq)
        return sorted(events, key=lambda event: event.event_seq)

    def inventory(self) -> leases_pb2.InventoryEntry:
        """Describe it for the queue service."""
        return leases_pb2.InventoryEntry(
            lease_id=self.grant.lease_id,
            epoch=self.grant.epoch,
            state=run_state(self.phase),
            container_id=self.container_id,
            unconfirmed_finish=self.phase is Phase.FINISHED,
            gpu_ids=self.grant.gpu_ids,
        )
