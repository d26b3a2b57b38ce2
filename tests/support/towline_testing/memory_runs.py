"""Runs and their attempts in memory: every compare-and-set of towline_queue/storage/sql, in Python.

The decisions are the service's own pure ones (`after_failure`, the table of transitions).
"""

from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from towline.v1 import runs_pb2
from towline_queue.core import transitions
from towline_queue.core.endings import CANCELLED, Ending, Past, after_failure, cause_of, lost, no_retry
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import policy_of
from towline_queue.core.leases import Claimed, Ended, LiveLease, SessionKey
from towline_queue.core.reports import Progress, Result
from towline_queue.core.stops import Stop, StopReason, stop_reason
from towline_queue.core.transitions import ACTIVE, TERMINAL, State, Transition
from towline_testing.history import Granted, History, LeaseEnded, ResultCommitted, RunEnded
from towline_testing.memory_tables import AttemptRow, LeaseRow, RunRow, Tables


class MemoryRuns:
    """What may change runs, leases and attempts; whatever is about a stale epoch changes nothing.

    Args:
        tables: All rows.
        clock: The database's clock, in seconds.
        history: Gets what is committed.
        chance: Gives random numbers from 0 to 1, for the jitter of retries.
    """

    def __init__(
        self, tables: Tables, clock: Callable[[], float], history: History, chance: Callable[[], float]
    ) -> None:
        self.tables = tables
        self.history = history
        self._clock = clock
        self._chance = chance

    def active(self, key: AttemptKey) -> bool:
        """Whether an attempt is its run's current one: what every write about it compares."""
        run = self.tables.runs.get(key.run)
        return run is not None and run.epoch == key.epoch and run.state in ACTIVE

    def wait(self, run: RunRow) -> None:
        """Give a run a place in its queue."""
        now = self._clock()
        self.tables.ready[run.name] = (now, now + run.max_wait.total_seconds() if run.max_wait else None)

    def claim(self, run: RunRow, session: SessionKey, gpu_ids: tuple[str, ...]) -> Claimed:
        """Lease a run that waits, with a new epoch."""
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

    def advance(self, progress: Iterable[Progress]) -> set[AttemptKey]:
        """Take progress by the table of transitions; return the attempts that are current."""
        current = set()
        for entry in progress:
            if not self.active(entry.key):
                continue
            current.add(entry.key)
            attempt, run = self.tables.attempts[entry.key], self.tables.runs[entry.key.run]
            if entry.event_seq and entry.event_seq <= attempt.event_seq:
                continue
            attempt.event_seq = max(attempt.event_seq, entry.event_seq)
            if any(run.state in move.sources and move.target is entry.state for move in transitions.PROGRESS):
                run.state = entry.state
        return current

    def finish(self, results: Sequence[Result]) -> tuple[list[Ended], dict[AttemptKey, UUID | None]]:
        """Commit results; return the attempts that end by them, and which result each attempt has."""
        first: dict[AttemptKey, Result] = {}
        for result in results:
            if result.key is not None:
                first.setdefault(result.key, result)
        finished = []
        for key, result in first.items():
            if not self.active(key):
                continue
            if result.state is State.FAILED:
                ending = self._after_failure(key, runs_pb2.Failure.FromString(result.failure or b""))
            else:
                ending = no_retry(result)
            finished.append(self._end(key, ending, result.outcome, cause_of(result), result))
        return finished, {key: row.finish_id for key, row in self.tables.attempts.items() if key in first}

    def give_back(self, move: Transition, keys: Iterable[AttemptKey]) -> list[Ended]:
        """Put runs back into their queue that were not executed; a cancelled one ends."""
        ended = []
        for key in dict.fromkeys(keys):
            if not self.active(key) or self.tables.runs[key.run].state not in move.sources:
                continue
            cancelled = self.tables.runs[key.run].cancel_requested
            ending = Ending(transitions.CANCEL_GIVEN_BACK, failure=CANCELLED) if cancelled else Ending(move)
            ended.append(self._end(key, ending, runs_pb2.ATTEMPT_OUTCOME_RELEASED))
        return ended

    def lose(self, losses: Iterable[tuple[AttemptKey, str]]) -> list[Ended]:
        """End attempts whose node is lost, each with what is said of it."""
        ended = []
        for key, why in losses:
            if self.active(key):
                failure = lost(why)
                ending = self._after_failure(key, failure)
                ended.append(self._end(key, ending, runs_pb2.ATTEMPT_OUTCOME_LOST, failure.cause))
        return ended

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
            self.wait(run)
        elif run.state is State.SCHEDULED:
            assert ending.delay is not None
            self.tables.scheduled[run.name] = self._clock() + ending.delay.total_seconds()
        else:
            run.outputs = result.outputs if result else ""
            self.history.add(RunEnded(self._clock(), run.name, run.state.name))
        return Ended(key, run.queue, run.state)

    def end_waiting(self, run: RunRow, state: State, failure: bytes) -> None:
        """End a run that waits."""
        assert state in TERMINAL
        self.tables.ready.pop(run.name, None)
        self.tables.scheduled.pop(run.name, None)
        run.state, run.failure = state, failure
        self.history.add(RunEnded(self._clock(), run.name, state.name))

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

    def leases_of(self, agent: str) -> list[LeaseRow]:
        return sorted(
            (lease for lease in self.tables.leases.values() if lease.agent == agent),
            key=lambda lease: lease.key.run,
        )

    def held_gpus(self, agent: str) -> frozenset[str]:
        return frozenset(gpu for lease in self.leases_of(agent) for gpu in lease.gpu_ids)

    def live(self, lease: LeaseRow) -> LiveLease:
        reason = self.stop_reason(lease)
        grace = self.tables.runs[lease.key.run].grace
        return LiveLease(lease.key, lease.session, None if reason is None else Stop(reason, grace))

    def stop_reason(self, lease: LeaseRow) -> StopReason | None:
        run = self.tables.runs[lease.key.run]
        return stop_reason(
            lease.key.epoch, cancel_requested=run.cancel_requested, preempt_epoch=run.preempt_epoch
        )
