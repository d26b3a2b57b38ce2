"""What happens to the leases in this agent's hands, and what is to be done about it.

Pure: every method takes what happened and when, changes the book, and returns effects for the caller to carry
out in order. Moments are seconds of CLOCK_BOOTTIME. What a lease does not wait for any more (an answer that
comes late, a verdict about a lease that is gone) changes nothing.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core import orders
from towline_agent.core.capacity import Capacity, Credits
from towline_agent.core.effects import (
    Begin,
    Clean,
    DeadlinesChanged,
    Effect,
    Forget,
    KeepExit,
    KeepFinish,
    KeepGrant,
    KeepStart,
    Permit,
)
from towline_agent.core.holdings import Holdings
from towline_agent.core.intake import Intake
from towline_agent.core.lease import GotImage, Key, Lease
from towline_agent.core.orders import Restored, restore
from towline_agent.core.phases import Phase, Step, occupies, works
from towline_agent.core.stops import Exit, Signalled, StopReason

__all__ = ["LeaseBook", "Restored"]

_NEVER: Final = float("inf")
_STOPS: Final = {
    leases_pb2.VERDICT_ACTION_STOP_CANCELLED: StopReason.CANCELLED,
    leases_pb2.VERDICT_ACTION_STOP_PREEMPTED: StopReason.PREEMPTED,
}


class LeaseBook(Holdings):
    """Leases and capacity of one agent; what there is to tell of the leases is `Holdings`.

    Args:
        capacity: What the node has.
        seq_base: Before the first event_seq and hello_seq of this start of the agent, greater than all of
            earlier starts.
        new_id: Makes finish ids.
    """

    def __init__(self, capacity: Capacity, seq_base: int, new_id: Callable[[], str]) -> None:
        super().__init__()
        self.intake = Intake(capacity)
        self.replies: list[leases_pb2.GrantReply] = []
        """Answers to grants that are to be said."""
        self._event_seq = seq_base
        self._hello_seq = seq_base
        self._new_id = new_id

    # --- what it tells

    @property
    def empty(self) -> bool:
        """Tell whether the agent drains and holds nothing any more."""
        return self.intake.draining and not self._leases

    def credits(self) -> Credits:
        """Return what is free."""
        return self.intake.credits(self.placed())

    def next_hello(self) -> int:
        """Return the number of the next Hello: the queue service drops one that comes after a later one."""
        self._hello_seq += 1
        return self._hello_seq

    def releases(self) -> list[leases_pb2.Release]:
        """Return what is to be given back and is not known to have arrived."""
        why = "the agent drains" if self.intake.draining else "it was preempted before its container started"
        return [
            leases_pb2.Release(lease_id=lease.grant.lease_id, epoch=lease.grant.epoch, reason=why)
            for lease in self.released()
        ]

    def next_tick(self) -> float:
        """Return when `tick` has something to do, infinity if never."""
        return min([self.intake.next_tick, *(orders.next_due(lease) for lease in self.leases)])

    # --- what the node tells it

    def restored(self, kept: Restored, now: float) -> list[Effect]:
        """Take up a lease of an earlier start.

        Nothing begins before the queue service says that it is ours, but the end of what has to end. Its
        time goes on as it was: where nobody knows it, it is over.
        """
        lease, effects = restore(kept, now)
        self._leases[lease.key] = lease
        return effects

    def granted(self, grant: leases_pb2.Grant, renewed_at: float, now: float) -> list[Effect]:
        """Take a grant or refuse it.

        Args:
            grant: What the queue service sent.
            renewed_at: When the last word of the session was sent that is acknowledged: the grant is younger.
            now: The time.
        """
        key = (grant.lease_id, grant.epoch)
        known = self._leases.get(key)
        if known is not None:  # said again
            if known.phase is not Phase.OFFERED:
                self._reply(grant, "")
            return []
        if refusal := self.intake.refusal(grant, self.placed()):
            self._reply(grant, refusal)
            return []
        lease = Lease(grant, renewed_at)
        self._leases[key] = lease
        if now >= lease.stop_at:
            return self._refuse(lease, "the lease was over before it came")
        return [KeepGrant(key, grant)]

    def grant_kept(self, key: Key, now: float) -> list[Effect]:
        """Accept a grant that is on disk."""
        lease = self._leases.get(key)
        if lease is None or lease.phase is not Phase.OFFERED:
            return []
        if self.intake.draining or now >= lease.stop_at:
            why = "the agent drains" if self.intake.draining else "the lease was over before it was kept"
            return [*self._refuse(lease, why), Forget(key, lease.grant)]
        lease.advance(Step.KEEP)
        lease.adopted = True
        self._reply(lease.grant, "")
        return [DeadlinesChanged(), *self._try_execute(lease)]

    def grant_not_kept(self, key: Key, why: str, now: float) -> list[Effect]:
        """Refuse a grant that could not be written; nothing is offered for a while."""
        lease = self._leases.get(key)
        self.intake.disk_failed(now)
        if lease is None or lease.phase is not Phase.OFFERED:
            return []
        refused = self._refuse(lease, f"the agent's data folder cannot be written: {why}")
        return [*refused, Forget(key, lease.grant)]

    def prepared(self, key: Key) -> None:
        """Note that the attempt's image is being made ready."""
        lease = self._leases.get(key)
        if lease is not None and lease.phase is Phase.LEASED:
            lease.advance(Step.PREPARE)

    def has_image(self, key: Key, image: GotImage) -> None:
        """Note how the image was got, for every later event."""
        if lease := self._leases.get(key):
            lease.image = image

    def starts(self, key: Key, now: float) -> list[Effect]:
        """Return what has to be done before its container is started; nothing: it may not be started.

        From now on the attempt has begun and its lease cannot be given back. The caller asks again when the
        effects are carried out, as that takes time. Where nothing is returned, an order to stop is there or
        on its way.
        """
        lease = self._leases.get(key)
        if lease is None or not works(lease.phase) or lease.stop is not None or now >= lease.stop_at:
            return []
        lease.begun = True
        return [Begin(key)]

    def told(self, key: Key, detail: str) -> None:
        """Note for people what the attempt does now."""
        if (lease := self._leases.get(key)) and works(lease.phase):
            self._event_seq += 1
            lease.tell(detail, self._event_seq)

    def started(self, key: Key, container_id: str, started_at: float) -> list[Effect]:
        """Note that the attempt's container was started, now or by an earlier start of the agent."""
        lease = self._leases.get(key)
        if lease is None or not works(lease.phase):
            return []
        lease.container_id, lease.begun = container_id, True
        if lease.limit_at == _NEVER:  # what was noted at the time is right whatever the wall clock did since
            lease.limit_at = started_at + lease.max_runtime
        if lease.phase in (Phase.LEASED, Phase.PREPARING):
            lease.advance(Step.START)
        return [KeepStart(key, started_at), DeadlinesChanged()]

    def announced(self, key: Key, at: float) -> list[Effect]:
        """Note that the stop file comes; `at`: just before. The file alone may end the program."""
        lease = self._leases.get(key)
        if lease is None or lease.stop is None or lease.exit is not None:
            return []
        if lease.signalled_at is None:
            lease.signalled_at = at
        return [DeadlinesChanged()]

    def signalled(self, key: Key, now: float) -> list[Effect]:
        """Note that the stop signal is sent: the time to end in begins."""
        lease = self._leases.get(key)
        if lease is None or lease.stop is None or lease.exit is not None:
            return []
        if lease.signalled_at is None:
            lease.signalled_at = now
        lease.kill_at = min(lease.kill_at, now + lease.stop.grace.total_seconds())
        if lease.phase is Phase.RUNNING:
            lease.advance(Step.STOP)
        return [DeadlinesChanged(), *orders.due(lease, now)]

    def exited(self, key: Key, exit: Exit, expired: Signalled | None = None) -> list[Effect]:
        """Note how the attempt's container has ended.

        Args:
            key: The lease.
            exit: How.
            expired: What a watchdog has sent meanwhile, if it has: it may have ended it while this process
                was frozen.
        """
        lease = self._leases.get(key)
        if lease is None or not works(lease.phase):
            return []
        if expired is not None and (lease.signalled_at is None or expired.at < lease.signalled_at):
            orders.note(lease, expired, expired.at)
        if lease.phase in (Phase.RUNNING, Phase.STOPPING):
            lease.advance(Step.STOP)
        if lease.exit is not None:
            return []
        lease.exit = exit
        return [KeepExit(key, exit), DeadlinesChanged()]

    def ended(self, key: Key, result: leases_pb2.AttemptResult) -> list[Effect]:
        """Take the attempt's result; it is sent after it was written, or was tried to be.

        A preemption of what never began is none: the lease goes back. Nothing is written for that: the
        agent's next start does as the queue service says, which has it back or has not.
        """
        lease = self._leases.get(key)
        if lease is None or not works(lease.phase):
            return []
        lease.executing = False
        if result.failure.cause == runs_pb2.FAILURE_CAUSE_PREEMPTED and lease.returnable:
            lease.advance(Step.RELEASE)
            return self._vacated(lease)
        lease.finish = leases_pb2.Finish(
            lease_id=key[0], epoch=key[1], finish_id=self._new_id(), result=result
        )
        return [KeepFinish(key, lease.finish)]

    def finish_kept(self, key: Key) -> list[Effect]:
        """Note that the result is on disk."""
        lease = self._leases.get(key)
        if lease is None or lease.finish is None:
            return []
        lease.finish_kept = True
        lease.retry_at = _NEVER
        return self._finished(lease)

    def finish_not_kept(self, key: Key, now: float) -> list[Effect]:
        """Note that the result could not be written.

        It is sent all the same, and written as soon as that works: held back until the disk has room, it
        would keep its run waiting for nothing. Should the agent end before it is confirmed, the container
        is still there, and the next start makes the result again.
        """
        lease = self._leases.get(key)
        if lease is None or lease.finish is None:
            return []
        lease.retry_at = self.intake.disk_failed(now)
        return self._finished(lease)

    def removed(self, key: Key) -> list[Effect]:
        """Note that nothing is left of an attempt on the engine."""
        lease = self._leases.get(key)
        if lease is None or lease.phase not in (Phase.CONFIRMED, Phase.DROPPED):
            return []
        lease.advance(Step.FORGET)
        del self._leases[key]
        self.intake.changed()
        return [Forget(key, lease.grant), DeadlinesChanged(), *self._begin_waiting(lease)]

    def engine(self, *, ready: bool) -> None:
        """Note whether the engine answers; nothing is taken while it does not."""
        self.intake.engine(ready=ready)

    def drain(self, now: float) -> list[Effect]:
        """Take no more runs and give back those that have not begun; `empty` when the last has ended."""
        if self.intake.draining:
            return []
        self.intake.drain()
        waiting = [lease for lease in self.leases if lease.returnable]
        return [
            effect
            for lease in waiting
            for effect in orders.order(lease, StopReason.PREEMPTED, lease.grace, now)
        ]

    def tick(self, now: float) -> list[Effect]:
        """Do what time demands."""
        self.intake.tick(now)
        return [effect for lease in self.leases for effect in orders.due(lease, now)]

    # --- what the queue service tells it

    def judged(self, verdict: leases_pb2.Verdict, sent: float, now: float) -> list[Effect]:
        """Follow a verdict on a lease of an inventory that was sent at `sent`."""
        lease = self._leases.get((verdict.lease_id, verdict.epoch))
        if lease is None:
            return []
        if verdict.action == leases_pb2.VERDICT_ACTION_ADOPT:
            return self._adopt(lease, sent)
        if reason := _STOPS.get(verdict.action):
            return [*self._adopt(lease, sent), *orders.order(lease, reason, lease.grace, now)]
        return self._drop(lease, now)  # stale, unknown, or its result is committed

    def cancelled(self, cancel: leases_pb2.Cancel, now: float) -> list[Effect]:
        """Stop an attempt on request."""
        lease = self._leases.get((cancel.lease_id, cancel.epoch))
        if lease is None:
            return []
        preempted = cancel.reason == leases_pb2.STOP_REASON_PREEMPTED
        reason = StopReason.PREEMPTED if preempted else StopReason.CANCELLED
        grace = cancel.grace.ToTimedelta() if cancel.HasField("grace") else lease.grace
        return orders.order(lease, reason, grace, now)

    def lost(self, lease_ids: Iterable[str], now: float) -> list[Effect]:
        """Stop and drop leases that are no longer ours."""
        gone = set(lease_ids)
        found = [lease for lease in self.leases if lease.grant.lease_id in gone]
        return [effect for lease in found for effect in self._drop(lease, now)]

    def confirmed(self, finish_id: str) -> list[Effect]:
        """Let go of an attempt whose result the queue service has, or does not want."""
        found = (lease for lease in self.leases if lease.finish and lease.finish.finish_id == finish_id)
        lease = next(found, None)
        return self._confirm(lease) if lease and lease.phase is Phase.FINISHED else []

    def given_back(self, keys: Iterable[Key]) -> list[Effect]:
        """Let go of leases whose return the queue service has carried out."""
        known = set(keys)
        back = [lease for lease in self.released() if lease.key in known]
        return [effect for lease in back for effect in self._confirm(lease)]

    def renewed(self, keys: Iterable[Key], sent: float) -> list[Effect]:
        """Note that a heartbeat that was sent at `sent`, with these leases, was acknowledged."""
        effects: list[Effect] = [DeadlinesChanged()]
        for key in keys:
            lease = self._leases.get(key)
            if lease is not None and lease.phase is not Phase.DROPPED:
                lease.renewed_at = max(lease.renewed_at, sent)
                effects += self._permit(lease)
        return effects

    def answered(self, keys: Iterable[Key]) -> None:
        """Note that the queue service is being told that these grants are taken."""
        for key in keys:
            if lease := self._leases.get(key):
                lease.answered = True

    # --- how

    def _adopt(self, lease: Lease, sent: float) -> list[Effect]:
        if lease.phase is not Phase.OFFERED and not works(lease.phase):
            return []
        lease.adopted = lease.answered = True
        lease.renewed_at = max(lease.renewed_at, sent)
        return [DeadlinesChanged(), *self._try_execute(lease), *self._permit(lease)]

    def _permit(self, lease: Lease) -> list[Effect]:
        # A grant whose answer comes too late goes to another agent; so no container starts before the queue
        # service has acknowledged something that was said after the answer.
        if lease.permitted or not works(lease.phase) or lease.stop is not None:
            return []
        lease.permitted = True
        return [Permit(lease.key)]

    def _try_execute(self, lease: Lease) -> list[Effect]:
        """Begin, if it is ours and no older attempt of its run is left here: two must not overlap."""
        if not works(lease.phase) or not lease.adopted:
            return []
        older = (other for other in self.of_run(lease.spec.run) if other.grant.epoch < lease.grant.epoch)
        return [] if any(occupies(other.phase) for other in older) else orders.execute(lease)

    def _begin_waiting(self, ended: Lease) -> list[Effect]:
        """Begin what waited for the end of an older attempt."""
        return [effect for other in self.of_run(ended.spec.run) for effect in self._try_execute(other)]

    def _drop(self, lease: Lease, now: float) -> list[Effect]:
        if lease.phase in (Phase.FINISHED, Phase.RELEASED):
            return self._confirm(lease)
        if lease.phase in (Phase.CONFIRMED, Phase.DROPPED):
            return []
        # As long as the lease holds by this node's clock, nobody else runs it: time to end in order.
        left = timedelta(seconds=max(0.0, lease.dead_by - now))
        grace = None if lease.exit else min(lease.grace, left)
        lease.kill_at = now + (grace.total_seconds() if grace else 0.0)
        lease.advance(Step.DROP)
        self.intake.changed()
        return [DeadlinesChanged(), Clean(lease.key, grace)]

    def _confirm(self, lease: Lease) -> list[Effect]:
        lease.advance(Step.CONFIRM)
        return [Clean(lease.key, None)]

    def _finished(self, lease: Lease) -> list[Effect]:
        if not works(lease.phase):
            return []
        lease.advance(Step.FINISH)
        return self._vacated(lease)

    def _vacated(self, lease: Lease) -> list[Effect]:
        """Give a lease's place to whoever waits for it."""
        self.intake.changed()
        return [DeadlinesChanged(), *self._begin_waiting(lease)]

    def _refuse(self, lease: Lease, why: str) -> list[Effect]:
        lease.advance(Step.REFUSE)
        del self._leases[lease.key]
        self._reply(lease.grant, why)
        self.intake.changed()
        return []

    def _reply(self, grant: leases_pb2.Grant, refusal: str) -> None:
        self.replies.append(
            leases_pb2.GrantReply(
                lease_id=grant.lease_id, epoch=grant.epoch, accepted=not refusal, reason=refusal
            )
        )
