"""Attempts in this agent's hands: what each is, and what the queue service is to be told of it."""

import asyncio
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import Final

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core.phases import Phase, Step, after, run_state

__all__ = ["Attempt", "Signal", "Stop", "StopReason"]

# Where the launch spec has none: the queue service's own default.
_GRACE: Final = timedelta(seconds=15)


class Signal:
    """Wakes one reader when something has changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the reader, now or when it comes."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until `set` was called since the last return."""
        await self._event.wait()
        self._event.clear()


class StopReason(IntEnum):
    """Why an attempt is stopped; a greater one replaces a smaller one."""

    EXPIRED = 1  # its lease could not be renewed
    CANCELLED = 2  # somebody asked


@dataclass(frozen=True)
class Stop:
    """An order to stop."""

    reason: StopReason
    grace: timedelta
    """Time between SIGTERM and SIGKILL."""


@dataclass
class Attempt:
    """One attempt, from its grant until nothing of it is left."""

    grant: leases_pb2.Grant
    changed: Signal
    """Set when the queue service is to be told something."""
    seq_base: int
    """First event_seq of this start of the agent, greater than all of earlier starts."""
    phase: Phase = Phase.LEASED
    container_id: str = ""
    finish: leases_pb2.Finish | None = None
    stop: Stop | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an order to stop has come."""
    adopted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the queue service has said that it is this agent's."""
    dropped: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the queue service has said that it is not: no result is wanted."""
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the queue service has the result, or wants none."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nothing of it is left."""
    _events: dict[runs_pb2.RunState.ValueType, leases_pb2.RunEvent] = field(default_factory=dict)
    _seq: int = 0
    _image: tuple[runs_pb2.ImageOutcome.ValueType, str] = (runs_pb2.IMAGE_OUTCOME_UNSPECIFIED, "")

    @property
    def lease(self) -> tuple[str, int]:
        """Return lease id and epoch."""
        return self.grant.lease_id, self.grant.epoch

    @property
    def spec(self) -> runs_pb2.LaunchSpec:
        """Return what to execute."""
        return self.grant.spec

    def advance(self, step: Step) -> None:
        """Move on in the table of phases."""
        self.phase = after(self.phase, step)
        self.changed.set()

    def tell(self, detail: str) -> None:
        """Say for people what it does now; the last word of each state is kept."""
        state = run_state(self.phase)
        if state == runs_pb2.RUN_STATE_LEASED:
            return
        self._seq += 1
        self._events[state] = leases_pb2.RunEvent(
            lease_id=self.grant.lease_id,
            epoch=self.grant.epoch,
            event_seq=self.seq_base + self._seq,
            state=state,
            detail=detail,
            image_outcome=self._image[0],
            image_id=self._image[1],
        )
        self.changed.set()

    def has_image(self, outcome: runs_pb2.ImageOutcome.ValueType, image_id: str) -> None:
        """Remember how the image was got, for every later event."""
        self._image = (outcome, image_id)

    def events_after(self, event_seq: int) -> list[leases_pb2.RunEvent]:
        """Return events that came after one, in order: at most one for each state."""
        events = (event for event in self._events.values() if event.event_seq > event_seq)
        return sorted(events, key=lambda event: event.event_seq)

    def order_stop(self, stop: Stop) -> None:
        """Take an order to stop; a weaker one than before changes nothing."""
        if self.stop is None or stop.reason > self.stop.reason:
            self.stop = stop
            self.stopping.set()

    @property
    def grace(self) -> timedelta:
        """Return the time between SIGTERM and SIGKILL that its queue sets."""
        return self.spec.stop_grace.ToTimedelta() if self.spec.HasField("stop_grace") else _GRACE

    def make_finish(self, result: leases_pb2.AttemptResult) -> leases_pb2.Finish:
        """Make the Finish of a result, with an id of its own."""
        return leases_pb2.Finish(
            lease_id=self.grant.lease_id,
            epoch=self.grant.epoch,
            finish_id=str(uuid.uuid4()),
            result=result,
        )

    def inventory(self) -> leases_pb2.InventoryEntry:
        """Describe it for the queue service."""
        return leases_pb2.InventoryEntry(
            lease_id=self.grant.lease_id,
            epoch=self.grant.epoch,
            state=run_state(self.phase),
            container_id=self.container_id,
            unconfirmed_finish=self.finish is not None,
            gpu_ids=self.grant.gpu_ids,
        )
