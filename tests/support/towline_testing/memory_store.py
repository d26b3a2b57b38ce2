"""The queue's database in memory: a `LeaseStore` for models, with a clock that stands still until it is set.

Its decisions are the service's own pure ones (`reconcile`, `fold_progress`, `after_failure`, the table of
transitions); its compare-and-sets mirror the statements in towline_queue/storage, and one contract suite
runs on both. What is committed is written to a `History`.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from towline.errors import FailedPrecondition
from towline.v1 import queues_pb2, runs_pb2
from towline_queue.core import transitions
from towline_queue.core.endings import CANCELLED, Ending, Past, after_failure, cause_of, lost, no_retry
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import policy_of
from towline_queue.core.leases import (
    CarriedOut,
    Claimed,
    Ended,
    LiveLease,
    Newcomer,
    Opened,
    Ready,
    Reconciled,
    Renewal,
    SessionKey,
    session_policy,
)
from towline_queue.core.limits import max_wait_of
from towline_queue.core.matching import Offer, WaitingRun, lanes
from towline_queue.core.reports import FinishVerdict, Progress, ReportAnswer, Result, SaidBy, fold_progress
from towline_queue.core.sessions import (
    Attempt,
    CurrentSession,
    HeldLease,
    Inventory,
    InventoryEntry,
    admit,
    check_order,
    reconcile,
)
from towline_queue.core.stops import Stop, StopReason, stop_reason
from towline_queue.core.submission import NewRun
from towline_queue.core.transitions import ACTIVE, TERMINAL, WAITING, State, Transition
from towline_queue.store import Choose
from towline_testing.history import (
    CancelAcknowledged,
    Granted,
    History,
    LeaseEnded,
    ResultCommitted,
    RunEnded,
    Submitted,
)


@dataclass
class RunRow:
    """A row of `runs`."""

    name: str
    seq: int
    queue: str
    priority: int
    shape: int
    state: State
    spec: bytes
    grace: timedelta
    max_wait: timedelta | None
    retry_policy: bytes
    epoch: int = 0
    cancel_requested: bool = False
    preempt_epoch: int | None = None
    failure: bytes | None = None
    outputs: str = ""


@dataclass
class LeaseRow:
    """A row of `leases`."""

    key: AttemptKey
    session: UUID
    agent: str
    gpu_ids: tuple[str, ...]
    lost_after: float
    grant_time: float
    accepted: bool = False


@dataclass
class AttemptRow:
    """A row of `attempts`."""

    agent: str
    outcome: int = 0
    finish_id: UUID | None = None
    cause: int = 0
    event_seq: int = 0


@dataclass
class AgentRow:
    """A row of `agents`."""

    instance_id: str
    hostname: str
    session: UUID | None
    session_epoch: int = 0
    hello_seq: int = 0
    draining: bool = False
    drain_deadline: float | None = None


@dataclass
class SessionRow:
    """A row of `sessions`."""

    agent: str
    epoch: int
    seen: float
    disconnected_after: float


@dataclass
class Tables:
    """All rows; times are seconds of the database's clock."""

    queues: dict[str, queues_pb2.QueueSpec] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    runs: dict[str, RunRow] = field(default_factory=dict)
    ready: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    """By run: waits since, and expires at."""
    scheduled: dict[str, float] = field(default_factory=dict)
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    attempts: dict[AttemptKey, AttemptRow] = field(default_factory=dict)
    agents: dict[str, AgentRow] = field(default_factory=dict)
    sessions: dict[UUID, SessionRow] = field(default_factory=dict)
    leaders: dict[str, tuple[UUID, float]] = field(default_factory=dict)


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
        self._chance = chance

    # What the API does

    def create_queue(self, name: str, spec: queues_pb2.QueueSpec) -> None:
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
            self._wait(run)
        else:
            self.tables.scheduled[name] = self._clock() + due_in
        self.history.add(Submitted(self._clock(), name))
        return name

    def cancel(self, name: str) -> None:
        """Cancel a waiting run, or ask for an active one to be stopped."""
        run = self.tables.runs[name]
        if run.state in WAITING:
            run.cancel_requested = True
            self._end_run(run, transitions.CANCEL_WAITING.target, CANCELLED)
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

    async def open_session(
        self, session: UUID, newcomer: Newcomer, queues: Sequence[str], entries: Sequence[InventoryEntry]
    ) -> Opened:
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
        inventory = Inventory(entries, speaks_for=None if same_instance else frozenset())
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
            HeldLease(lease.key, lease.accepted, self._stop_reason(lease))
            for lease in self._leases_of(session.agent)
            if self._active(lease.key)
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
        self._advance(
            Progress(key, event_seq=0, state=state, passed=frozenset({state}))
            for key, state in outcome.adopted.items()
            if state in ACTIVE
        )
        ended = self._give_back(transitions.RETURN, outcome.never_started)
        ended += self._lose((key, "gone from its node") for key in outcome.lost)
        return Reconciled(outcome, ended)

    async def renew(self, keys: Sequence[SessionKey]) -> Sequence[Renewal | None]:
        for key in keys:
            if self._is_current(key):
                self.tables.sessions[key.id].seen = self._clock()
        return [self._renewal(key) if self._is_current(key) else None for key in keys]

    def _renewal(self, key: SessionKey) -> Renewal:
        leases = [self._live(lease) for lease in self._leases_of(key.agent) if lease.session == key.id]
        return Renewal(self.tables.agents[key.agent].draining, leases)

    async def leave(self, session: SessionKey) -> None:
        if self._is_current(session) and not self._leases_of(session.agent):
            self.tables.agents[session.agent].session = None

    async def drain(self, session: SessionKey) -> None:
        if self._is_current(session):
            self.tables.agents[session.agent].draining = True

    # Attempts

    async def carry_out(self, said: Sequence[SaidBy]) -> CarriedOut:
        reports = [item.report for item in said]
        accepted = {
            reply.key
            for report in reports
            for reply in report.replies
            if reply.accepted and self._active(reply.key)
        }
        for key in accepted:
            self.tables.leases[key.run].accepted = True
        advanced = self._advance(fold_progress(entry for report in reports for entry in report.progress))
        finished, committed = self._finish([result for report in reports for result in report.results])
        refused = [reply.key for report in reports for reply in report.replies if not reply.accepted]
        given_back = self._give_back(transitions.RETURN, refused)
        returned = [entry.key for report in reports for entry in report.returned]
        given_back += self._give_back(transitions.RELEASE, returned)
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

    def _finish(self, results: Sequence[Result]) -> tuple[list[Ended], dict[AttemptKey, UUID | None]]:
        first: dict[AttemptKey, Result] = {}
        for result in results:
            if result.key is not None:
                first.setdefault(result.key, result)
        finished = []
        for key, result in first.items():
            if not self._active(key):
                continue
            if result.state is State.FAILED:
                ending = self._after_failure(key, runs_pb2.Failure.FromString(result.failure or b""))
            else:
                ending = no_retry(result)
            finished.append(self._end(key, ending, result.outcome, cause_of(result), result))
        return finished, {key: row.finish_id for key, row in self.tables.attempts.items() if key in first}

    async def stops(self, runs: Sequence[str]) -> Sequence[LiveLease]:
        leases = (self.tables.leases.get(run) for run in runs)
        return [live for lease in leases if lease and (live := self._live(lease)).stop]

    async def hand_out(self, offers: Sequence[Offer], choose: Choose) -> Sequence[Claimed]:
        free = [
            replace(offer, free_gpus=offer.free_gpus - self._held_gpus(offer.agent))
            if offer.free_gpus
            else offer
            for offer in offers
        ]
        waiting = self._waiting(free)
        assignments = choose(free, waiting) if waiting else []
        agent_of = {offer.session: offer.agent for offer in offers}
        claimed = []
        for assignment in assignments:
            key = SessionKey(assignment.session, agent_of[assignment.session])
            held = self._held_gpus(key.agent)
            run = self.tables.runs[assignment.run]
            if (
                not self._takes_runs(key)
                or run.state not in transitions.CLAIM.sources
                or held & {*assignment.gpu_ids}
            ):
                continue
            claimed.append(self._claim(run, key, assignment.gpu_ids))
        return claimed

    def _waiting(self, offers: Sequence[Offer]) -> list[WaitingRun]:
        found = []
        for lane in lanes(offers):
            if lane.queue not in self.tables.queues or lane.queue in self.tables.paused:
                continue
            heads = [
                run
                for name in self.tables.ready
                if (run := self.tables.runs[name]).queue == lane.queue and run.shape == lane.shape
            ]
            heads.sort(key=lambda run: (run.priority, run.seq))
            if lane.most:
                heads = heads[: lane.most]
            else:
                heads = list({run.priority: run for run in reversed(heads)}.values())
            for run in heads:
                waited = timedelta(seconds=self._clock() - self.tables.ready[run.name][0])
                found.append(WaitingRun(run.name, run.queue, run.shape, run.priority, run.seq, waited))
        return found

    def _takes_runs(self, key: SessionKey) -> bool:
        session = self.tables.sessions.get(key.id)
        return (
            self._is_current(key)
            and session is not None
            and not self.tables.agents[key.agent].draining
            and self._clock() < session.seen + session.disconnected_after
        )

    def _claim(self, run: RunRow, session: SessionKey, gpu_ids: tuple[str, ...]) -> Claimed:
        run.state, run.epoch = transitions.CLAIM.target, run.epoch + 1
        del self.tables.ready[run.name]
        key = AttemptKey(run.name, run.epoch)
        ttl = policy_of(self.tables.queues[run.queue].lease_policy).lost_after
        now = self._clock()
        self.tables.leases[run.name] = LeaseRow(
            key, session.id, session.agent, gpu_ids, ttl.total_seconds(), now
        )
        before = [row for (name, _), row in self.tables.attempts.items() if name == run.name]
        number = 1 + sum(row.outcome != runs_pb2.ATTEMPT_OUTCOME_RELEASED for row in before)
        self.tables.attempts[key] = AttemptRow(session.agent)
        self.history.add(Granted(now, run.name, run.epoch, session.agent, gpu_ids))
        return Claimed(key, session.id, number, run.spec, gpu_ids, ttl)

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
        return self._lose((key, "its agent was silent") for key in expired)

    async def take_back_unanswered(self, reply_within: timedelta) -> Sequence[Ended]:
        unanswered = [
            lease.key
            for lease in self.tables.leases.values()
            if not lease.accepted
            and (session := self.tables.sessions.get(lease.session)) is not None
            and session.seen > lease.grant_time + reply_within.total_seconds()
        ]
        return self._give_back(transitions.RETURN, unanswered)

    async def promote(self) -> Sequence[Ready]:
        due = [name for name, at in self.tables.scheduled.items() if at <= self._clock()]
        for name in due:
            del self.tables.scheduled[name]
            run = self.tables.runs[name]
            run.state = transitions.PROMOTE.target
            self._wait(run)
        return [Ready(name, self.tables.runs[name].queue) for name in due]

    async def expire_waiting(self) -> Sequence[str]:
        due = [
            name
            for name, (_, until) in self.tables.ready.items()
            if until is not None and until <= self._clock()
        ]
        failure = runs_pb2.Failure(cause=runs_pb2.FAILURE_CAUSE_TIMEOUT).SerializeToString()
        for name in due:
            self._end_run(self.tables.runs[name], transitions.EXPIRE_WAITING.target, failure)
        return due

    async def preempt_overdue_drains(self) -> Sequence[str]:
        found = []
        for lease in self.tables.leases.values():
            agent, run = self.tables.agents[lease.agent], self.tables.runs[lease.key.run]
            overdue = agent.drain_deadline is not None and agent.drain_deadline <= self._clock()
            if agent.draining and overdue and run.preempt_epoch != run.epoch:
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

    # Compare-and-sets

    def _active(self, key: AttemptKey) -> bool:
        """Whether an attempt is its run's current one: what every write about it compares."""
        run = self.tables.runs.get(key.run)
        return run is not None and run.epoch == key.epoch and run.state in ACTIVE

    def _advance(self, progress: Iterable[Progress]) -> set[AttemptKey]:
        current = set()
        for entry in progress:
            if not self._active(entry.key):
                continue
            current.add(entry.key)
            attempt, run = self.tables.attempts[entry.key], self.tables.runs[entry.key.run]
            if entry.event_seq and entry.event_seq <= attempt.event_seq:
                continue
            attempt.event_seq = max(attempt.event_seq, entry.event_seq)
            if any(run.state in move.sources and move.target is entry.state for move in transitions.PROGRESS):
                run.state = entry.state
        return current

    def _give_back(self, move: Transition, keys: Iterable[AttemptKey]) -> list[Ended]:
        ended = []
        for key in dict.fromkeys(keys):
            if not self._active(key) or self.tables.runs[key.run].state not in move.sources:
                continue
            cancelled = self.tables.runs[key.run].cancel_requested
            ending = Ending(transitions.CANCEL_GIVEN_BACK, failure=CANCELLED) if cancelled else Ending(move)
            ended.append(self._end(key, ending, runs_pb2.ATTEMPT_OUTCOME_RELEASED))
        return ended

    def _lose(self, losses: Iterable[tuple[AttemptKey, str]]) -> list[Ended]:
        ended = []
        for key, why in losses:
            if self._active(key):
                failure = lost(why)
                ending = self._after_failure(key, failure)
                ended.append(self._end(key, ending, runs_pb2.ATTEMPT_OUTCOME_LOST, failure.cause))
        return ended

    def _after_failure(self, key: AttemptKey, failure: runs_pb2.Failure) -> Ending:
        run = self.tables.runs[key.run]
        alike = [
            (epoch, row.agent)
            for (name, epoch), row in self.tables.attempts.items()
            if name == key.run and row.cause == failure.cause
        ]
        agent = self.tables.leases[key.run].agent
        past = Past(run.cancel_requested, run.retry_policy, [*alike, (key.epoch, agent)])
        return after_failure(failure, past, self._chance())

    def _end(
        self, key: AttemptKey, ending: Ending, outcome: int, cause: int = 0, result: Result | None = None
    ) -> Ended:
        """End an attempt, of which the caller has seen that it is current, and settle its run."""
        run, attempt = self.tables.runs[key.run], self.tables.attempts[key]
        attempt.outcome, attempt.cause = outcome, cause
        del self.tables.leases[key.run]
        if result is not None:
            attempt.finish_id = result.finish_id
            self.history.add(ResultCommitted(self._clock(), *key, str(result.finish_id)))
        self.history.add(LeaseEnded(self._clock(), *key))
        run.state, run.failure = ending.move.target, ending.failure
        if run.state is State.QUEUED:
            self._wait(run)
        elif run.state is State.SCHEDULED:
            assert ending.delay is not None
            self.tables.scheduled[run.name] = self._clock() + ending.delay.total_seconds()
        else:
            run.outputs = result.outputs if result else ""
            self.history.add(RunEnded(self._clock(), run.name, run.state.name))
        return Ended(key, run.queue, run.state)

    def _end_run(self, run: RunRow, state: State, failure: bytes) -> None:
        """End a run that waits."""
        assert state in TERMINAL
        self.tables.ready.pop(run.name, None)
        self.tables.scheduled.pop(run.name, None)
        run.state, run.failure = state, failure
        self.history.add(RunEnded(self._clock(), run.name, state.name))

    def _wait(self, run: RunRow) -> None:
        now = self._clock()
        self.tables.ready[run.name] = (now, now + run.max_wait.total_seconds() if run.max_wait else None)

    # Reading

    def _leases_of(self, agent: str) -> list[LeaseRow]:
        return sorted(
            (lease for lease in self.tables.leases.values() if lease.agent == agent),
            key=lambda lease: lease.key.run,
        )

    def _held_gpus(self, agent: str) -> frozenset[str]:
        return frozenset(gpu for lease in self._leases_of(agent) for gpu in lease.gpu_ids)

    def _stop_reason(self, lease: LeaseRow) -> StopReason | None:
        run = self.tables.runs[lease.key.run]
        return stop_reason(
            lease.key.epoch, cancel_requested=run.cancel_requested, preempt_epoch=run.preempt_epoch
        )

    def _live(self, lease: LeaseRow) -> LiveLease:
        reason = self._stop_reason(lease)
        grace = self.tables.runs[lease.key.run].grace
        return LiveLease(lease.key, lease.session, None if reason is None else Stop(reason, grace))


def _verdict(
    result: Result, committed: Mapping[AttemptKey, UUID | None], fresh: set[AttemptKey]
) -> FinishVerdict:
    if result.key is None or committed.get(result.key) != result.finish_id:
        return FinishVerdict.STALE_EPOCH
    if result.key in fresh:
        fresh.discard(result.key)
        return FinishVerdict.OK
    return FinishVerdict.DUPLICATE
