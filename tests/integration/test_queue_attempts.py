"""What statements do to attempts and their runs: results, retries, losses; stale ones change nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from towline.v1 import runs_pb2
from towline_queue.core import transitions
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import Ended
from towline_queue.core.reports import FinishVerdict, Progress, Reply, Report, Returned, SaidBy
from towline_queue.core.stops import StopReason
from towline_queue.core.transitions import State
from towline_queue.storage import attempts, database, runs, sessions, upkeep
from towline_queue.storage.attempts import Lost
from towline_queue.storage.database import Database, Row, Transaction
from towline_queue.storage.reports import carry_out
from towline_testing.queue_rows import QueueRows, queue_rows, result

USER_ERROR = runs_pb2.FAILURE_CAUSE_USER_ERROR
OOM = runs_pb2.FAILURE_CAUSE_OOM
NODE_LOST = runs_pb2.FAILURE_CAUSE_NODE_LOST
PREEMPTED = runs_pb2.FAILURE_CAUSE_PREEMPTED
LOST = runs_pb2.ATTEMPT_OUTCOME_LOST


@pytest.fixture
async def rows(database_url: str) -> AsyncIterator[QueueRows]:
    async with queue_rows(database_url) as rows:
        yield rows


def budgets(**most: int) -> runs_pb2.RetryPolicy:
    return runs_pb2.RetryPolicy(
        budgets=[
            runs_pb2.RetryBudget(
                cause=runs_pb2.FailureCause.Value(f"FAILURE_CAUSE_{name}"), max_retries=retries
            )
            for name, retries in most.items()
        ]
    )


def failure(row: object) -> runs_pb2.Failure:
    return runs_pb2.Failure.FromString(row.failure)


# Every statement that writes about an attempt, called with one of its key.
WRITES: dict[str, Callable[[QueueRows, AttemptKey], Awaitable[object]]] = {
    "accept": lambda rows, key: rows.do(attempts.accept, [key]),
    "prepares": lambda rows, key: rows.do(attempts.advance, [Progress(key, 1, State.PREPARING)]),
    "runs": lambda rows, key: rows.do(attempts.advance, [Progress(key, 1, State.RUNNING)]),
    "tells": lambda rows, key: rows.do(attempts.advance, [Progress(key, 0, State.RUNNING)]),
    "succeeds": lambda rows, key: rows.finish(key),
    "is cancelled": lambda rows, key: rows.finish(key, State.CANCELLED),
    "fails": lambda rows, key: rows.finish(key, State.FAILED),
    "is retried": lambda rows, key: rows.finish(key, State.FAILED, OOM),
    "is preempted": lambda rows, key: rows.finish(key, State.FAILED, PREEMPTED),
    "is lost": lambda rows, key: rows.do(attempts.lose, [Lost(key, "gone")]),
    "returns": lambda rows, key: rows.do(attempts.give_back, transitions.RETURN, {key: "refused"}),
    "is released": lambda rows, key: rows.do(attempts.give_back, transitions.RELEASE, {key: "drains"}),
    "unanswered": lambda rows, key: rows.do(
        attempts.give_back, transitions.RETURN, {key: "silent"}, unanswered=True
    ),
}


@pytest.mark.parametrize("wrong", [-1, 1])
async def test_a_stale_epoch_changes_no_row(rows: QueueRows, wrong: int):
    session = await rows.session()
    first = await rows.held(session, retry_policy=budgets(OOM=3))
    await rows.do(attempts.give_back, transitions.RETURN, {first: "once more"})
    second = await rows.claim(first.run, session)
    await rows.sql("UPDATE queue.leases SET accepted = false")
    before = await rows.everything()
    for name, write in WRITES.items():
        changed = await write(rows, AttemptKey(second.run, second.epoch + wrong))
        assert (name, bool(changed)) == (name, False)
        assert (name, await rows.everything()) == (name, before)


async def test_the_current_epoch_changes_rows(rows: QueueRows):
    """Otherwise the test above would show nothing."""
    session = await rows.session()
    for name, write in WRITES.items():
        key = await rows.held(session, retry_policy=budgets(OOM=3))
        await rows.sql("UPDATE queue.leases SET accepted = false")
        before = await rows.everything()
        assert (name, bool(await write(rows, key))) == (name, True)
        assert (name, await rows.everything()) != (name, before)


@pytest.mark.parametrize("how", ["succeeds", "is retried", "is lost"])
async def test_an_attempt_that_is_over_changes_no_row(rows: QueueRows, how: str):
    """Its epoch is still the run's newest."""
    key = await rows.held(await rows.session(), retry_policy=budgets(OOM=3))
    assert await WRITES[how](rows, key)
    before = await rows.everything()
    for name, write in WRITES.items():
        assert (name, bool(await write(rows, key))) == (name, False)
        assert (name, await rows.everything()) == (name, before)


async def test_progress_moves_by_the_table_only(rows: QueueRows):
    key = await rows.held(await rows.session())
    for seq, (told, expected) in enumerate(
        [
            (State.RUNNING, State.RUNNING),
            (State.PREPARING, State.RUNNING),
            (State.STOPPING, State.STOPPING),
            (State.RUNNING, State.STOPPING),
        ],
        start=1,
    ):
        await rows.do(attempts.advance, [Progress(key, seq, told)])
        assert (await rows.run(key.run)).state == expected


async def test_a_failure_with_a_budget_is_tried_again_after_a_while(rows: QueueRows):
    session = await rows.session()
    key = await rows.held(session, retry_policy=budgets(USER_ERROR=2))
    (ended,) = await rows.finish(key, State.FAILED, USER_ERROR)
    assert ended == Ended(key, "queues/default", State.SCHEDULED)
    run = await rows.run(key.run)
    assert run.state_detail == "Tried again (retry 1 of 2 after USER_ERROR): It failed."
    assert (run.failure, run.end_time, run.outputs) == (None, None, "")
    attempt = await rows.attempt(key)
    assert (attempt.outcome, attempt.cause) == (runs_pb2.ATTEMPT_OUTCOME_FAILED, USER_ERROR)
    assert failure(attempt).message == "It failed."
    assert attempt.outputs == "artifacts/a/versions/v0"
    assert await rows.sql("SELECT run FROM queue.leases") == []
    ((wait,),) = await rows.sql("SELECT due_time - now() FROM queue.scheduled")
    assert timedelta(seconds=5) < wait <= timedelta(seconds=10)


async def test_waits_double_and_the_run_fails_once_the_budget_is_spent(rows: QueueRows):
    session = await rows.session()
    run = await rows.submit(retry_policy=budgets(USER_ERROR=2))
    waits = []
    while await rows.fails(run, session, USER_ERROR) is State.SCHEDULED:
        ((wait,),) = await rows.sql("SELECT due_time - now() FROM queue.scheduled")
        waits.append(wait / timedelta(seconds=10))
    first, second = waits
    assert 0.5 < first <= 1
    assert 1 < second <= 2
    found = await rows.run(run)
    assert found.state == State.FAILED
    assert failure(found).cause == USER_ERROR
    assert found.state_detail == "Given up after USER_ERROR: it was tried again 2 times"
    assert found.end_time is not None
    assert found.outputs == "artifacts/a/versions/v0"
    assert await rows.sql("SELECT first_run FROM queue.ready UNION ALL SELECT run FROM queue.scheduled") == []


async def test_each_cause_has_its_own_budget(rows: QueueRows):
    session = await rows.session()
    run = await rows.submit(retry_policy=budgets(USER_ERROR=1, OOM=1))
    causes = [USER_ERROR, OOM, NODE_LOST, PREEMPTED, OOM]
    states = [await rows.fails(run, session, cause) for cause in causes]
    assert states == [State.SCHEDULED, State.SCHEDULED, State.QUEUED, State.QUEUED, State.FAILED]


@pytest.mark.parametrize("cause", [NODE_LOST, PREEMPTED])
async def test_a_run_that_is_not_at_fault_keeps_its_place_and_its_budgets(rows: QueueRows, cause: int):
    session = await rows.session()
    key = await rows.held(session, max_wait=timedelta(minutes=5))
    await rows.submit()  # comes later, and stays behind
    (ended,) = await rows.finish(key, State.FAILED, cause)
    assert ended.state is State.QUEUED
    first, *_ = await rows.sql(
        "SELECT first_run AS run, expire_time - ready_time AS most FROM queue.ready ORDER BY priority, seq"
    )
    assert (first.run, first.most) == (key.run, timedelta(minutes=5))
    assert (await rows.run(key.run)).failure is None


async def test_a_run_lost_too_often_fails_and_names_its_attempts(rows: QueueRows):
    sessions_ = [await rows.session(f"agents/{name}") for name in ("one", "two", "three")]
    run = await rows.submit(retry_policy=budgets(NODE_LOST=2))
    for session in sessions_:
        key = await rows.claim(run, session)
        (ended,) = await rows.do(attempts.lose, [Lost(key, "It was silent.")])
    assert ended.state is State.FAILED
    found = await rows.run(run)
    assert failure(found).cause == NODE_LOST
    assert "agents/one (epoch 1), agents/two (epoch 2), agents/three (epoch 3)" in failure(found).message
    rows_ = await rows.sql("SELECT outcome, cause, finish_id FROM queue.attempts")
    assert {tuple(row) for row in rows_} == {(LOST, NODE_LOST, None)}


async def test_a_loss_counts_only_while_the_lease_is_the_sessions(rows: QueueRows):
    """Another session adopted the lease after the reaper had read it."""
    key = await rows.held(await rows.session())
    before = await rows.everything()
    assert await rows.do(attempts.lose, [Lost(key, "gone", session=uuid4())]) == []
    assert await rows.everything() == before


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (OOM, State.CANCELLED),  # it would be tried again
        (USER_ERROR, State.FAILED),  # it ended by itself
        (PREEMPTED, State.CANCELLED),
        (NODE_LOST, State.CANCELLED),
    ],
)
async def test_a_cancel_wins_over_every_retry(rows: QueueRows, cause: int, expected: State):
    key = await rows.held(await rows.session(), retry_policy=budgets(OOM=3))
    await rows.api(runs.cancel, key.run)
    (ended,) = await rows.finish(key, State.FAILED, cause)
    assert ended.state is expected
    found = await rows.run(key.run)
    assert found.state == expected
    assert failure(found).cause == (USER_ERROR if expected is State.FAILED else 10)
    assert failure(await rows.attempt(key)).cause == cause


async def test_a_run_that_waits_again_can_be_cancelled(rows: QueueRows):
    session = await rows.session()
    run = await rows.submit(retry_policy=budgets(OOM=3))
    assert await rows.fails(run, session, OOM) is State.SCHEDULED
    await rows.api(runs.cancel, run)
    assert (await rows.run(run)).state == State.CANCELLED
    other = await rows.held(session)
    await rows.finish(other, State.FAILED, PREEMPTED)
    await rows.api(runs.cancel, other.run)
    assert (await rows.run(other.run)).state == State.CANCELLED


async def test_results_of_all_kinds_are_committed_together(rows: QueueRows):
    session = await rows.session()
    keys = [await rows.held(session, retry_policy=budgets(OOM=1)) for _ in range(5)]
    results = [
        result(keys[0]),
        result(keys[1], State.FAILED, OOM),
        result(keys[2], State.CANCELLED),
        result(keys[3], State.FAILED, USER_ERROR),
        result(keys[4], State.FAILED, PREEMPTED),
        result(AttemptKey(keys[0].run, 7), State.FAILED),
    ]
    ended = await rows.do(attempts.finish, results)
    assert {entry.key: entry.state for entry in ended} == dict(
        zip(
            keys,
            [State.SUCCEEDED, State.SCHEDULED, State.CANCELLED, State.FAILED, State.QUEUED],
            strict=True,
        )
    )


async def test_a_result_whose_run_is_retried_is_confirmed_once_and_then_a_duplicate(rows: QueueRows):
    session = await rows.session()
    key = await rows.held(session, retry_policy=budgets(OOM=1))
    said = SaidBy(session.agent, Report(results=[result(key, State.FAILED, OOM)]))
    finish_id = said.report.results[0].finish_id
    first = await carry_out(rows.database, [said])
    assert first.answers[0].results == [(finish_id, FinishVerdict.OK)]
    assert [entry.state for entry in first.ended] == [State.SCHEDULED]
    await rows.sql("UPDATE queue.scheduled SET due_time = now()")
    await rows.do(upkeep.promote)
    for _ in range(2):  # while it waits, and while its next attempt is held
        again = await carry_out(rows.database, [said])
        assert again.answers[0].results == [(finish_id, FinishVerdict.DUPLICATE)]
        assert again.ended == []
        if (await rows.run(key.run)).state == State.QUEUED:
            await rows.claim(key.run, session)
    other = SaidBy(session.agent, Report(results=[result(key)]))
    assert (await carry_out(rows.database, [other])).answers[0].results[0][1] is FinishVerdict.STALE_EPOCH


async def test_a_cause_that_this_version_does_not_know_ends_the_run(rows: QueueRows):
    key = await rows.held(await rows.session())
    (ended,) = await rows.finish(key, State.FAILED, 70_000)
    assert ended.state is State.FAILED
    assert (await rows.attempt(key)).cause == 0


async def test_any_message_of_an_agent_can_be_stored(rows: QueueRows):
    key = await rows.held(await rows.session(), retry_policy=budgets(OOM=1))
    said = runs_pb2.Failure(cause=OOM, message="50%\0 ✓ " + "x" * 9000).SerializeToString()
    (ended,) = await rows.do(attempts.finish, [result(key, State.FAILED)._replace(failure=said)])
    assert ended.state is State.SCHEDULED
    assert "50%\N{REPLACEMENT CHARACTER} ✓ xx" in (await rows.run(key.run)).state_detail
    assert (await rows.attempt(key)).failure == said


async def test_a_preemption_is_for_one_attempt(rows: QueueRows):
    session = await rows.session()
    key = await rows.held(session)
    assert await rows.do(sessions.stops, [key.run]) == []
    await rows.api(runs.preempt, key.run)
    (lease,) = await rows.do(sessions.stops, [key.run])
    assert (lease.key, lease.session, lease.stop.reason) == (key, session.id, StopReason.PREEMPTED)
    assert lease.stop.grace == timedelta(seconds=7)
    (renewal,) = await rows.do(sessions.renew, [session], look=True)
    assert renewal.leases == [lease]
    await rows.api(runs.cancel, key.run)
    (lease,) = await rows.do(sessions.stops, [key.run])
    assert lease.stop.reason is StopReason.CANCELLED
    await rows.sql("UPDATE queue.leases SET stop_requested = 2")
    await rows.finish(key, State.FAILED, PREEMPTED)
    again = await rows.claim(key.run, session)
    assert again.epoch == key.epoch + 1
    assert await rows.do(sessions.stops, [key.run]) == []
    (renewal,) = await rows.do(sessions.renew, [session], look=True)
    assert [lease.stop for lease in renewal.leases] == [None]


class _Counted:
    """A database that notes its statements, and where a transaction is more than one."""

    def __init__(self, database: Database | Transaction, told: list[str]) -> None:
        self._database = database
        self.told = told

    async def rows(self, name: str, /, **parameters: object) -> list[Row]:
        self.told.append(name)
        return await self._database.rows(name, **parameters)

    @asynccontextmanager
    async def transaction(self) -> "AsyncIterator[_Counted]":
        self.told.append("begin")
        async with self._database.transaction() as opened:
            yield _Counted(opened, self.told)
        self.told.append("commit")


async def test_the_ordinary_way_takes_one_statement_each(rows: QueueRows):
    session = await rows.session()
    keys = [await rows.held(session) for _ in range(3)]

    async def statements(reports: list[Report]) -> list[str]:
        counted = _Counted(rows.database, [])
        await carry_out(counted, [SaidBy(session.agent, report) for report in reports])
        return counted.told

    begun = [Report([Reply(key, accepted=True)], [Progress(key, 1, State.RUNNING)]) for key in keys]
    assert await statements(begun) == ["attempt_progress"]
    ended = [Report(results=[result(key, state)]) for key, state in zip(keys, OK, strict=True)]
    assert await statements(ended) == ["attempt_finish"]
    assert await statements(ended) == ["attempt_finish", "attempt_finish_ids"]
    released = await rows.held(session)
    returned = [Report(returned=[Returned(released, "it drains")])]
    assert await statements(returned) == ["attempt_give_back"]
    assert await statements([*ended, *returned]) == [
        "begin",
        "attempt_finish",
        "attempt_finish_ids",
        "attempt_give_back",
        "commit",
    ]
    failed = await rows.held(session)
    assert await statements([Report(results=[result(failed, State.FAILED)])]) == [
        "begin",
        "attempt_failed",
        "attempt_finish",
        "commit",
    ]


async def test_what_two_agents_say_of_one_attempt_in_one_batch(rows: QueueRows):
    """It is taken, begins, and ends: told of by two reports that are carried out together."""
    session = await rows.session()
    key = await rows.held(session)
    await rows.sql("UPDATE queue.leases SET accepted = false")
    first = Report(replies=[Reply(key, accepted=True)], progress=[Progress(key, 1, State.PREPARING)])
    second = Report(progress=[Progress(key, 2, State.RUNNING, image_id="sha256:1")], results=[result(key)])
    done = await carry_out(rows.database, [SaidBy(session.agent, said) for said in (first, second)])
    assert [answer.stale for answer in done.answers] == [set(), set()]
    assert [ended.state for ended in done.ended] == [State.SUCCEEDED]
    attempt = await rows.attempt(key)
    assert None not in (attempt.prepare_time, attempt.start_time, attempt.lease_time, attempt.end_time)
    assert attempt.image_id == "sha256:1"


async def test_an_attempt_that_was_given_back_has_no_number(rows: QueueRows):
    """The epoch tells leases apart; the number counts those that began."""
    session = await rows.session()
    key = await rows.held(session, retry_policy=budgets(OOM=1))
    assert (await rows.run(key.run)).number == 1
    await rows.do(attempts.give_back, transitions.RELEASE, {key: "drains"})
    key = await rows.claim(key.run, session)
    assert (key.epoch, (await rows.run(key.run)).number) == (2, 1)
    await rows.do(attempts.lose, [Lost(key, "gone")])
    key = await rows.claim(key.run, session)
    assert (key.epoch, (await rows.run(key.run)).number) == (3, 2)
    await rows.finish(key, State.FAILED, OOM)
    assert (await rows.run(key.run)).number == 3


@pytest.mark.parametrize(
    "name", ["attempt_progress", "attempt_finish", "attempt_failed", "attempt_give_back"]
)
async def test_rows_are_found_by_their_key_whatever_the_statistics_say(rows: QueueRows, name: str):
    """The worst that a plan can be made from: no agent held a run when the table was last looked at."""
    await rows.sql("DELETE FROM queue.leases")
    async with rows.engine.connect() as connection:
        alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await alone.execute(text("VACUUM ANALYZE queue.leases"))
    written, names = database._statement(name)
    explained = await rows.explain(written, len(names))
    lines = [line.strip().removeprefix("->  ") for line in explained.splitlines()]
    assert not [line for line in lines if line.startswith(("Seq Scan", "Hash Join", "Join Filter"))], (
        explained
    )
    by_key = [line for line in lines if line.startswith("Index Scan using leases_pkey")]
    # Of each, the key is what is looked for.
    conditions = [
        line for line in lines if line.startswith(("Index Cond: (run = ", "Index Cond: (leases.run = "))
    ]
    assert by_key
    assert len(conditions) >= len(by_key), explained


OK = [State.SUCCEEDED, State.SUCCEEDED, State.CANCELLED]
