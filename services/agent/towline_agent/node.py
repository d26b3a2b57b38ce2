"""The node: all attempts in this agent's hands, and what is free beside them.

The session tells it what the queue service says and asks it what to answer; it knows of no wire.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from towline.errors import TowlineError
from towline.v1 import leases_pb2
from towline_agent.attempts import Attempt, Signal, Stop, StopReason
from towline_agent.core.capacity import Capacity, Credits
from towline_agent.core.phases import Phase, Step, occupies
from towline_agent.engine.health import EngineHealth
from towline_agent.journal import Journal
from towline_agent.runner import Runner
from towline_agent.stopping import Stopped, unless

__all__ = ["Node", "Parts", "boottime"]

_log = logging.getLogger(__name__)
_SEQS_PER_START: Final = 2**32


def boottime() -> float:
    """Return seconds since boot, time asleep included: what leases are measured with."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Parts:
    """What a node works with."""

    capacity: Capacity
    journal: Journal
    runner: Runner
    health: EngineHealth
    changed: Signal
    """Set when the session has something to say."""


class Node:
    """Attempts and capacity of this agent.

    Args:
        parts: What it works with.
        group: Owns the attempts' tasks.
        starts: How often an agent was started on this data folder.
        clock: See `boottime`.
    """

    def __init__(
        self,
        parts: Parts,
        group: asyncio.TaskGroup,
        starts: int,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._parts = parts
        self._group = group
        self._seq_base = starts * _SEQS_PER_START
        self._clock = clock
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._valid_until = float("inf")
        self._expiry_grace = timedelta(0)
        self.changed = parts.changed
        self.capacity = parts.capacity
        self.capacity_gen = 0
        """Rises when credits change for another reason than a grant."""
        self.draining = False
        self.empty = asyncio.Event()
        """Set when the agent drains and holds nothing any more."""

    def restore(self) -> None:
        """Take up what the journal has; nothing new starts before the queue service says that it is ours."""
        for record in self._parts.journal.records():
            attempt = self._hold(record.grant)
            if record.finish is not None:
                attempt.finish = record.finish
                attempt.advance(Step.FINISH)
            # Nobody knows when the lease was renewed last; from now on is the most it can be.
            self.renewed(self._clock(), record.grant.ttl.ToTimedelta())
            self._group.create_task(self._attend(attempt), name=record.grant.spec.run)
        if self._attempts:
            _log.info("found %d runs of an earlier start", len(self._attempts))

    @property
    def attempts(self) -> Iterable[Attempt]:
        """Return all attempts in its hands."""
        return list(self._attempts.values())

    def credits(self) -> Credits:
        """Return what is free."""
        held = [attempt.grant.gpu_ids for attempt in self.attempts if occupies(attempt.phase)]
        return self.capacity.credits(held, accepting=self._parts.health.ready and not self.draining)

    def capacity_changed(self) -> None:
        """Say that credits are to be told anew."""
        self.capacity_gen += 1
        self.changed.set()

    def drain(self) -> None:
        """Take no more runs; `empty` is set when the last has ended."""
        if not self.draining:
            self.draining = True
            _log.info("draining: %d runs to go", len(self._attempts))
            self.capacity_changed()
        self._check_empty()

    async def offer(self, grant: leases_pb2.Grant) -> leases_pb2.GrantReply:
        """Take a grant, or say why not; one that is taken is on disk."""
        reply = leases_pb2.GrantReply(lease_id=grant.lease_id, epoch=grant.epoch, accepted=True)
        if (grant.lease_id, grant.epoch) in self._attempts:
            return reply
        refusal = self._refusal(grant)
        if not refusal:
            attempt = self._hold(grant)
            attempt.adopted.set()
            try:
                await asyncio.to_thread(self._parts.journal.granted, grant)
            except OSError as error:
                self._forget(attempt)
                refusal = f"the agent's data folder cannot be written: {error}"
            else:
                self._group.create_task(self._attend(attempt), name=grant.spec.run)
                _log.info("%s: attempt %d, epoch %d", grant.spec.run, grant.attempt, grant.epoch)
                return reply
        _log.warning("%s is refused: %s", grant.spec.run, refusal)
        reply.accepted = False
        reply.reason = refusal
        return reply

    def judged(self, verdict: leases_pb2.Verdict) -> None:
        """Follow the queue service's verdict on a lease."""
        attempt = self._attempts.get((verdict.lease_id, verdict.epoch))
        if attempt is None:
            return
        match verdict.action:
            case leases_pb2.VERDICT_ACTION_ADOPT:
                attempt.adopted.set()
            case leases_pb2.VERDICT_ACTION_STOP_CANCELLED:
                attempt.order_stop(Stop(StopReason.CANCELLED, attempt.grace))
                attempt.adopted.set()
            case leases_pb2.VERDICT_ACTION_FINISH_CONFIRMED:
                if attempt.finish is None:
                    attempt.dropped.set()
                attempt.confirmed.set()
            case _:
                attempt.dropped.set()

    def cancelled(self, cancel: leases_pb2.Cancel) -> None:
        """Stop an attempt on request; its result will be CANCELLED."""
        if attempt := self._attempts.get((cancel.lease_id, cancel.epoch)):
            grace = cancel.grace.ToTimedelta() if cancel.HasField("grace") else attempt.grace
            attempt.order_stop(Stop(StopReason.CANCELLED, grace))

    def lost(self, lease_ids: Iterable[str]) -> None:
        """Stop and drop leases that are no longer ours."""
        wanted = set(lease_ids)
        for attempt in self.attempts:
            if attempt.grant.lease_id in wanted:
                attempt.dropped.set()

    def confirmed(self, confirm: leases_pb2.Confirm) -> None:
        """Forget an attempt whose result the queue service has, or does not want."""
        for attempt in self.attempts:
            if attempt.finish is not None and attempt.finish.finish_id == confirm.finish_id:
                attempt.confirmed.set()

    def renewed(self, sent: float, ttl: timedelta) -> None:
        """Note that leases hold for `ttl` from a moment of the clock on.

        A quarter of it is kept back: half of that for SIGTERM to work, the rest so that containers
        are dead well before another agent may be given the run.
        """
        self._valid_until = sent + ttl.total_seconds() * 0.75
        self._expiry_grace = ttl / 8

    async def watch_expiry(self) -> None:
        """Stop all containers when leases cannot be renewed; runs until cancelled."""
        while True:
            left = self._valid_until - self._clock()
            if left <= 0 and (held := [attempt for attempt in self.attempts if occupies(attempt.phase)]):
                for attempt in held:
                    if attempt.stop is None:
                        _log.error("%s: its lease could not be renewed; stopping it", attempt.spec.run)
                    grace = min(attempt.grace, self._expiry_grace)
                    attempt.order_stop(Stop(StopReason.EXPIRED, grace))
            # Never long: the loop's clock stands still while the node sleeps, this one does not.
            await asyncio.sleep(min(max(left, 0.05), 1.0))

    def _refusal(self, grant: leases_pb2.Grant) -> str:
        if self.draining:
            return "the agent drains"
        if not self._parts.health.ready:
            return "the Docker Engine does not answer"
        if grant.spec.WhichOneof("resource") != "docker":
            return "the run is not for Docker"
        return self.capacity.refusal(grant.gpu_ids, self.credits())

    def _hold(self, grant: leases_pb2.Grant) -> Attempt:
        attempt = Attempt(grant, self.changed, self._seq_base)
        self._attempts[attempt.lease] = attempt
        return attempt

    async def _attend(self, attempt: Attempt) -> None:
        """Bring one attempt to its end and clean up after it."""
        if attempt.finish is None:
            await self._finish(attempt)
        if not attempt.dropped.is_set():
            await unless(attempt.dropped, attempt.confirmed.wait())
        await self._end(attempt)
        self._parts.runner.forget(attempt)
        await asyncio.to_thread(self._parts.journal.forget, attempt.grant)
        self._forget(attempt)

    async def _finish(self, attempt: Attempt) -> None:
        result = await unless(attempt.dropped, self._result(attempt))
        if isinstance(result, Stopped):
            _log.warning(
                "%s (epoch %d) is no longer ours; stopping it", attempt.spec.run, attempt.grant.epoch
            )
            attempt.advance(Step.DROP)
            return
        finish = attempt.make_finish(result)
        try:
            await asyncio.to_thread(self._parts.journal.finished, attempt.grant, finish)
        except OSError as error:
            _log.error("the result of %s is in memory only: %s", attempt.spec.run, error)
        attempt.finish = finish
        attempt.advance(Step.FINISH)
        self.capacity_changed()
        _log.info("%s: %s", attempt.spec.run, result.failure.message or "succeeded")

    async def _end(self, attempt: Attempt) -> None:
        """Remove an attempt's container; one that is no longer ours gets time to end by itself."""
        grace = attempt.grace if attempt.phase is Phase.DROPPED else None
        try:
            await self._parts.runner.remove(attempt, grace)
        except TowlineError as error:
            _log.warning("the container of %s stays until the next start: %s", attempt.spec.run, error)

    async def _result(self, attempt: Attempt) -> leases_pb2.AttemptResult:
        await unless(attempt.stopping, attempt.adopted.wait())
        for other in self.attempts:
            # An older lease of the same run that is being stopped here: their containers must not overlap.
            if other.spec.run == attempt.spec.run and other.grant.epoch < attempt.grant.epoch:
                await unless(attempt.stopping, other.gone.wait())
        return await self._parts.runner.execute(attempt)

    def _forget(self, attempt: Attempt) -> None:
        del self._attempts[attempt.lease]
        attempt.gone.set()
        if attempt.phase in (Phase.FINISHED, Phase.DROPPED):
            attempt.advance(Step.FORGET)
        self.capacity_changed()
        self._check_empty()

    def _check_empty(self) -> None:
        if self.draining and not self._attempts:
            self.empty.set()
