"""The queue's database in memory: a `LeaseStore` for models, with a clock that stands still until it is set.

One contract suite runs on it and on PostgreSQL's. What is committed is written to a `History`.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from towline.errors import FailedPrecondition, TowlineError
from towline.v1 import queues_pb2, runs_pb2
from towline_queue.core import transitions
from towline_queue.core.dispatch import HandedOut, Search
from towline_queue.core.endings import CANCELLED
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import policy_of
from towline_queue.core.leases import (
    CarriedOut,
    Claimed,
    Ended,
    LiveLease,
    Opened,
    Opening,
    Ready,
    Reconciled,
    Renewal,
    SessionKey,
    session_policy,
)
from towline_queue.core.limits import max_wait_of
from towline_queue.core.matching import Lane, Offer, Place, WaitingRun
from towline_queue.core.reports import FinishVerdict, Progress, ReportAnswer, Result, SaidBy, fold_progress
from towline_queue.core.sessions import (
    Attempt,
    CurrentSession,
    HeldLease,
    Inventory,
    admit,
    check_order,
    reconcile,
)
from towline_queue.core.submission import NewRun
from towline_queue.core.transitions import ACTIVE, WAITING, State
from towline_queue.store import Choose
from towline_testing.history import CancelAcknowledged, History, Submitted
from towline_testing.memory_runs import MemoryRuns
from towline_testing.memory_tables import AgentRow, RunRow, SessionRow, Tables


class MemoryLeaseStore:
    """A `towline_queue.store.LeaseStore`; every method takes effect at once and whole.

    Args:
        clock: The database's clock, in seconds.
        history: Gets what is committed.
        chance: Gives random numbers from 0 to 1, for the jitter of retries.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        history: History | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.tables = Tables()
        self.history = history if history is not None else History()
        self._clock = clock
        self._runs = MemoryRuns(self.tables, clock, self.history, chance)

    # What the API does

    def put_queue(self, name: str, spec: queues_pb2.QueueSpec) -> None:
        """Create a queue, or change it."""
        self.tables.queues[name] = spec

    def submit(self, new: NewRun, due_in: float | None = None) -> str:
        """Store one run and acknowledge it."""
        spec, name = new.spec, new.spec.run
        run = RunRow(
            name=name,
            seq=len(self.tables.runs) + 1,
            queue=spec.queue,
            priority=new.priority,
            shape=spec.docker.gpus,
            state=State.QUEUED if due_in is None else State.SCHEDULED,
            spec=spec.SerializeToString(),
            grace=spec.stop_grace.ToTimedelta(),
            max_wait=max_wait_of(spec.limits),
            retry_policy=spec.retry_policy.SerializeToString(),
        )
        self.tables.runs[name] = run
        if due_in is None:
            self._runs.wait(run)
        else:
            self.tables.scheduled[name] = self._clock() + due_in
        self.history.add(Submitted(self._clock(), name))
        return name

    def cancel(self, name: str) -> None:
        """Cancel a waiting run, or ask for an active one to be stopped."""
        run = self.tables.runs[name]
        if run.state in WAITING:
            run.cancel_requested = True
            self._runs.end_waiting(run, transitions.CANCEL_WAITING.target, CANCELLED)
        elif run.state in ACTIVE:
            run.cancel_requested = True
        self.history.add(CancelAcknowledged(self._clock(), name))

    def preempt(self, name: str) -> None:
        """Have a run's current attempt preempted; FailedPrecondition if there is none."""
        run = self.tables.runs[name]
        if run.state not in ACTIVE:
            raise FailedPrecondition(f"{name} is {run.state.name}", reason="RUN_NOT_ACTIVE")
        run.preempt_epoch = run.epoch

    def drain_by(self, agent: str, deadline: timedelta | None) -> None:
        """Drain an agent as an operator asks."""
        row = self.tables.agents[agent]
        row.draining = True
        row.drain_deadline = None if deadline is None else self._clock() + deadline.total_seconds()

    # Sessions

    async def open_sessions(self, openings: Sequence[Opening]) -> Sequence[Opened | TowlineError]:
        answers: list[Opened | TowlineError] = []
        for opening in openings:
            try:
                answers.append(self._open(opening))
            except TowlineError as error:
                answers.append(error)
        return answers

    def _open(self, opening: Opening) -> Opened:
        session, newcomer, queues = opening.session, opening.newcomer, opening.queues
        policies = {
            name: policy_of(self.tables.queues[name].lease_policy)
            for name in queues
            if name in self.tables.queues
        }
        policy, missing = session_policy(policies, queues)
        hostname = str(newcomer.facts.get("hostname", ""))
        before = self.tables.agents.get(newcomer.agent) or AgentRow(newcomer.instance_id, hostname, None)
        admit(newcomer.agent, newcomer.instance_id, self._current(before))
        same_instance = before.instance_id == newcomer.instance_id
        if same_instance:
            check_order(newcomer.agent, newcomer.hello_seq, before.hello_seq)
            gone = [id_ for id_, row in self.tables.sessions.items() if row.agent == newcomer.agent]
            for id_ in gone:
                del self.tables.sessions[id_]
        draining = before.draining and not newcomer.fresh
        agent = AgentRow(
            instance_id=newcomer.instance_id,
            hostname=hostname,
            session=session,
            session_epoch=before.session_epoch + 1,
            hello_seq=newcomer.hello_seq,
            draining=draining,
            drain_deadline=before.drain_deadline if draining else None,
        )
        self.tables.agents[newcomer.agent] = agent
        self.tables.sessions[session] = SessionRow(
            newcomer.agent, agent.session_epoch, self._clock(), policy.disconnected_after.total_seconds()
        )
        inventory = Inventory(opening.entries, speaks_for=None if same_instance else frozenset())
        reconciled = self._reconcile(SessionKey(session, newcomer.agent), inventory)
        return Opened(agent.session_epoch, draining, policy, missing, reconciled)

    def _current(self, agent: AgentRow) -> CurrentSession | None:
        row = self.tables.sessions.get(agent.session) if agent.session else None
        if row is None:
            return None
        silence = timedelta(seconds=self._clock() - row.seen)
        return CurrentSession(
            agent.instance_id, agent.hostname, silence, timedelta(seconds=row.disconnected_after)
        )

    def _is_current(self, key: SessionKey) -> bool:
        agent = self.tables.agents.get(key.agent)
        return agent is not None and agent.session == key.id

    async def settle(self, session: SessionKey, inventory: Inventory) -> Reconciled | None:
        return self._reconcile(session, inventory) if self._is_current(session) else None

    def _reconcile(self, session: SessionKey, inventory: Inventory) -> Reconciled:
        keys = [entry.key for entry in inventory.entries if entry.key is not None]
        held = [
            HeldLease(lease.key, lease.accepted, self._runs.stop_reason(lease))
            for lease in self._runs.leases_of(session.agent)
            if self._runs.active(lease.key)
        ]
        others = {
            key: Attempt(finished=self.tables.attempts[key].finish_id is not None)
            for key in keys
            if key in self.tables.attempts
        }
        known = {key.run for key in keys if key.run in self.tables.runs}
        outcome = reconcile(inventory, held, others, known)
        for key in outcome.adopted:
            lease = self.tables.leases[key.run]
            lease.session, lease.accepted = session.id, True
        self._runs.advance(
            Progress(key, event_seq=0, state=state, passed=frozenset({state}))
            for key, state in outcome.adopted.items()
            if state in ACTIVE
        )
        ended = self._runs.give_back(transitions.RETURN, outcome.never_started)
        ended += self._runs.lose((key, "gone from its node") for key in outcome.lost)
        return Reconciled(outcome, ended)

    async def renew(self, keys: Sequence[SessionKey], *, look: bool = True) -> Sequence[Renewal | None]:
        for key in keys:
            if self._is_current(key):
                self.tables.sessions[key.id].seen = self._clock()
        renewals = [self.renewal(key) for key in keys]
        return renewals if look else [one and Renewal(one.draining, None) for one in renewals]

    def renewal(self, key: SessionKey) -> Renewal | None:
        """Return what a session that renews its leases is told."""
        if not self._is_current(key):
            return None
        leases = [
            self._runs.live(lease) for lease in self._runs.leases_of(key.agent) if lease.session == key.id
        ]
        return Renewal(self.tables.agents[key.agent].draining, leases)

    async def leave(self, session: SessionKey) -> None:
        if self._is_current(session) and not self._runs.leases_of(session.agent):
            self.tables.agents[session.agent].session = None

    async def drain(self, session: SessionKey) -> None:
        if self._is_current(session):
            self.tables.agents[session.agent].draining = True

    async def withhold(self, session: SessionKey, why: str) -> None:
        if self._is_current(session):
            self.tables.agents[session.agent].withheld = why

    # Attempts

    async def carry_out(self, said: Sequence[SaidBy]) -> CarriedOut:
        reports = [item.report for item in said]
        accepted = {
            reply.key
            for report in reports
            for reply in report.replies
            if reply.accepted and self._runs.active(reply.key)
        }
        for key in accepted:
            self.tables.leases[key.run].accepted = True
        advanced = self._runs.advance(fold_progress(entry for report in reports for entry in report.progress))
        finished, committed = self._runs.finish([result for report in reports for result in report.results])
        refused = [reply.key for report in reports for reply in report.replies if not reply.accepted]
        given_back = self._runs.give_back(transitions.RETURN, refused)
        returned = [entry.key for report in reports for entry in report.returned]
        given_back += self._runs.give_back(transitions.RELEASE, returned)
        gone = {ended.key for ended in given_back}
        fresh = {ended.key for ended in finished}
        answers = []
        for report in reports:
            stale = {
                *(reply.key for reply in report.replies if reply.accepted and reply.key not in accepted),
                *(entry.key for entry in report.progress if entry.key not in advanced),
            }
            ended = {
                *(reply.key for reply in report.replies if reply.key in gone),
                *(entry.key for entry in report.returned if entry.key in gone),
                *(result.key for result in report.results if result.key in committed),
            }
            verdicts = [(result.finish_id, _verdict(result, committed, fresh)) for result in report.results]
            answers.append(ReportAnswer(verdicts, stale, {key for key in ended if key is not None}))
        return CarriedOut(answers, frozenset(key.run for key in advanced), [*finished, *given_back])

    async def stops(self, runs: Sequence[str]) -> Sequence[LiveLease]:
        leases = (self.tables.leases.get(run) for run in runs)
        return [live for lease in leases if lease and (live := self._runs.live(lease)).stop]

    async def hand_out(
        self, offers: Sequence[Offer], searches: Sequence[Search], choose: Choose
    ) -> HandedOut:
        free = list(offers)
        if any(search.lane.shape for search in searches):
            free = [
                replace(offer, free_gpus=offer.free_gpus - self._runs.held_gpus(offer.agent))
                for offer in offers
            ]
        waiting = None
        if len(searches) > 1:
            waiting = [run for search in searches for run in self._waiting(search)]
        refused: set[UUID] = set()
        claimed: list[Claimed] = []
        asked: Counter[Lane] = Counter()
        found: Counter[Lane] = Counter()
        for place in choose(free, waiting):
            if not self._takes(place):
                refused.add(place.session)
                continue
            asked[place.lane] += place.slots
            for run in self._heads(place.lane)[: place.slots]:
                key = SessionKey(place.session, place.agent)
                claimed.append(self._runs.claim(run, key, place.gpu_ids))
                found[place.lane] += 1
        seen = Counter(Lane(run.queue, run.shape) for run in waiting or ())
        dry = {
            lane
            for lane, most, _ in searches
            if found[lane] < asked[lane] or (waiting is not None and seen[lane] == found[lane] < max(most, 1))
        }
        return HandedOut(claimed, dict(found), frozenset(refused), frozenset(dry))

    def _heads(self, lane: Lane) -> list[RunRow]:
        """Return the waiting runs of a lane, the first one first."""
        if lane.queue not in self.tables.queues or lane.queue in self.tables.paused:
            return []
        waiting = [self.tables.runs[name] for name in self.tables.ready]
        heads = [run for run in waiting if Lane(run.queue, run.shape) == lane]
        return sorted(heads, key=lambda run: (run.priority, run.seq))

    def _waiting(self, search: Search) -> list[WaitingRun]:
        heads = self._heads(search.lane)
        if search.most:
            heads = heads[: search.most]
        else:
            heads = list({run.priority: run for run in reversed(heads)}.values())
        now = self._clock()
        return [
            WaitingRun(
                run.name,
                run.queue,
                run.shape,
                run.priority,
                run.seq,
                timedelta(seconds=now - self.tables.ready[run.name][0]),
            )
            for run in heads
        ]

    def _takes(self, place: Place) -> bool:
        held = self._runs.held_gpus(place.agent)
        return self._takes_runs(SessionKey(place.session, place.agent)) and not held & {*place.gpu_ids}

    def _takes_runs(self, key: SessionKey) -> bool:
        session = self.tables.sessions.get(key.id)
        return (
            self._is_current(key)
            and session is not None
            and not self.tables.agents[key.agent].draining
            and self._clock() < session.seen + session.disconnected_after
        )

    # What time demands

    async def lead(self, name: str, holder: UUID, term: timedelta) -> bool:
        leader, until = self.tables.leaders.get(name, (holder, 0.0))
        if leader != holder and until >= self._clock():
            return False
        self.tables.leaders[name] = (holder, self._clock() + term.total_seconds())
        return True

    async def take_back_lost(self, healthy_for: timedelta) -> Sequence[Ended]:
        expired = [
            lease.key
            for lease in self.tables.leases.values()
            if (session := self.tables.sessions.get(lease.session)) is not None
            and session.seen + lease.lost_after < self._clock()
            and lease.lost_after <= healthy_for.total_seconds()
        ]
        return self._runs.lose((key, "its agent was silent") for key in expired)

    async def take_back_unanswered(self, reply_within: timedelta) -> Sequence[Ended]:
        unanswered = [
            lease.key
            for lease in self.tables.leases.values()
            if not lease.accepted
            and (session := self.tables.sessions.get(lease.session)) is not None
            and session.seen > lease.grant_time + reply_within.total_seconds()
        ]
        return self._runs.give_back(transitions.RETURN, unanswered)

    async def promote(self) -> Sequence[Ready]:
        due = [name for name, at in self.tables.scheduled.items() if at <= self._clock()]
        for name in due:
            del self.tables.scheduled[name]
            run = self.tables.runs[name]
            run.state = transitions.PROMOTE.target
            self._runs.wait(run)
        return [Ready(name, self.tables.runs[name].queue) for name in due]

    async def expire_waiting(self) -> Sequence[str]:
        due = [
            name
            for name, (_, until) in self.tables.ready.items()
            if until is not None and until <= self._clock()
        ]
        failure = runs_pb2.Failure(cause=runs_pb2.FAILURE_CAUSE_TIMEOUT).SerializeToString()
        for name in due:
            self._runs.end_waiting(self.tables.runs[name], transitions.EXPIRE_WAITING.target, failure)
        return due

    async def preempt_overdue_drains(self) -> Sequence[str]:
        found = []
        for lease in self.tables.leases.values():
            agent, run = self.tables.agents[lease.agent], self.tables.runs[lease.key.run]
            overdue = agent.drain_deadline is not None and agent.drain_deadline <= self._clock()
            if agent.draining and overdue and self._runs.stop_reason(lease) is None:
                run.preempt_epoch = run.epoch
                found.append(run.name)
        return found

    async def forget_sessions(self) -> int:
        holding = {lease.session for lease in self.tables.leases.values()}
        old = [
            id_
            for id_, row in self.tables.sessions.items()
            if self.tables.agents[row.agent].session_epoch > row.epoch and id_ not in holding
        ]
        for id_ in old:
            del self.tables.sessions[id_]
        return len(old)

    async def forget_requests(self) -> int:
        return 0

    async def keep_attempts(self, keep: timedelta | None) -> bool:
        return True


def _verdict(
    result: Result, committed: Mapping[AttemptKey, UUID | None], fresh: set[AttemptKey]
) -> FinishVerdict:
    if result.key is None or committed.get(result.key) != result.finish_id:
        return FinishVerdict.STALE_EPOCH
    if result.key in fresh:
        fresh.discard(result.key)
        return FinishVerdict.OK
    return FinishVerdict.DUPLICATE
