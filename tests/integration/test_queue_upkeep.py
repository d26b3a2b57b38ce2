"""What time does to rows: leases expire, waits end, drains are overdue, leaders follow each other."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import TextClause, text

from towline.errors import FailedPrecondition, NotFound
from towline.service.postgres import transaction
from towline.v1 import queues_pb2, runs_pb2
from towline_queue.core import transitions
from towline_queue.core.leases import Ready
from towline_queue.core.stops import StopReason
from towline_queue.core.transitions import State
from towline_queue.storage import agents, attempts, leaders, queues, runs, sessions, upkeep
from towline_testing.queue_rows import QUEUE, QueueRows, queue_rows

HOUR = timedelta(hours=1)
WELL = timedelta(days=1)


def patience(lost_after: timedelta) -> queues_pb2.QueueSpec:
    spec = queues_pb2.QueueSpec()
    spec.lease_policy.lost_after.FromTimedelta(lost_after)
    return spec


@pytest.fixture
async def rows(database_url: str) -> AsyncIterator[QueueRows]:
    async with queue_rows(database_url) as rows:
        yield rows


async def silence(rows: QueueRows, time: timedelta) -> None:
    """Let all agents have been silent for a time."""
    await rows.sql("UPDATE queue.sessions SET seen_time = now() - CAST(:time AS interval)", time=time)


async def test_each_lease_of_a_session_expires_by_its_own_time(rows: QueueRows):
    session = await rows.session()
    short = await rows.held(session)  # of the default, 120 s
    await rows.api(queues.update_spec, QUEUE, patience(HOUR).SerializeToString(), "")
    long = await rows.held(session)
    await silence(rows, timedelta(seconds=119))
    assert await rows.do(upkeep.take_back_lost, WELL) == []
    await silence(rows, timedelta(seconds=121))
    (lost,) = await rows.do(upkeep.take_back_lost, WELL)
    assert (lost.key, lost.state) == (short, State.QUEUED)
    detail = (await rows.run(short.run)).state_detail
    assert detail == "Tried again (retry 1 of 10 after NODE_LOST): agents/one was silent for over 120 s."
    await silence(rows, HOUR + timedelta(seconds=1))
    (lost,) = await rows.do(upkeep.take_back_lost, WELL)
    assert lost.key == long


async def test_a_lease_is_spared_until_it_could_have_been_renewed_for_all_its_time(rows: QueueRows):
    key = await rows.held(await rows.session())
    await silence(rows, WELL)
    just_under = timedelta(seconds=120) - timedelta(milliseconds=1)
    assert await rows.do(upkeep.take_back_lost, just_under) == []
    (lost,) = await rows.do(upkeep.take_back_lost, timedelta(seconds=120))
    assert lost.key == key


async def test_a_renewal_holds_every_lease_of_its_session(rows: QueueRows):
    one, two = await rows.session("agents/one"), await rows.session("agents/two")
    await rows.held(one)
    other = await rows.held(two)
    await silence(rows, WELL)
    (renewal,) = await rows.do(sessions.renew, [one], look=True)
    assert len(renewal.leases) == 1
    assert [lost.key for lost in await rows.do(upkeep.take_back_lost, WELL)] == [other]


@pytest.mark.parametrize("instance", ["a", "b"])
async def test_a_session_that_was_followed_renews_nothing(rows: QueueRows, instance: str):
    """By the same instance, or by another once it was silent: that one leaves its leases to their time."""
    old = await rows.session(instance="a")
    key = await rows.held(old)
    await silence(rows, timedelta(seconds=119))
    await rows.session(instance=instance)
    assert await rows.do(sessions.renew, [old], look=True) == [None]
    assert (await rows.run(key.run)).state == (State.QUEUED if instance == "a" else State.LEASED)
    await rows.sql("UPDATE queue.sessions SET seen_time = seen_time - interval '2 s'")
    lost = await rows.do(upkeep.take_back_lost, WELL)
    assert [entry.key for entry in lost] == ([] if instance == "a" else [key])


async def test_two_sweeps_at_once_take_a_run_back_once(rows: QueueRows):
    await rows.held(await rows.session())
    await silence(rows, WELL)
    async with rows.database.transaction() as one, rows.database.transaction() as other:
        assert len(await upkeep.take_back_lost(one, WELL)) == 1
        assert await upkeep.take_back_lost(other, WELL) == []
    assert len(await rows.sql("SELECT first_run AS run FROM queue.ready")) == 1


async def test_a_lease_that_another_session_adopts_meanwhile_is_not_lost(rows: QueueRows):
    """The reaper has read the lease and waits for it, which the adopting session holds."""
    key = await rows.held(await rows.session())
    await silence(rows, WELL)
    async with asyncio.TaskGroup() as group, transaction(rows.engine) as adopting:
        await adopting.execute(lease_locked(key.run))
        reaping = group.create_task(rows.do(upkeep.take_back_lost, WELL))
        while not await rows.sql("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            assert not reaping.done()
        await adopting.execute(lease_moved(key.run))
    assert reaping.result() == []
    assert (await rows.run(key.run)).state == State.LEASED


def lease_locked(run: str) -> TextClause:
    return text("SELECT FROM queue.leases WHERE run = :run FOR NO KEY UPDATE").bindparams(run=run)


def lease_moved(run: str) -> TextClause:
    return text("UPDATE queue.leases SET session = gen_random_uuid() WHERE run = :run").bindparams(run=run)


async def test_a_run_that_waits_too_long_fails(rows: QueueRows):
    limited = await rows.submit(max_wait=timedelta(minutes=1))
    patient = await rows.submit()
    assert await rows.do(upkeep.expire_waiting) == []
    await rows.sql("UPDATE queue.ready SET expire_time = expire_time - interval '61 s'")
    assert await rows.do(upkeep.expire_waiting) == [limited]
    failed = await rows.run(limited)
    assert failed.state == State.FAILED
    failure = runs_pb2.Failure.FromString(failed.failure)
    assert failure.cause == runs_pb2.FAILURE_CAUSE_TIMEOUT
    assert "max_wait" in failure.message
    assert failed.end_time is not None
    assert [row.run for row in await rows.sql("SELECT first_run AS run FROM queue.ready")] == [patient]
    assert await rows.do(upkeep.expire_waiting) == []


async def test_the_wait_counts_from_when_the_run_was_queued(rows: QueueRows):
    due = datetime.now(UTC) + HOUR
    run = await rows.submit(max_wait=timedelta(minutes=1), due=due)
    await rows.sql("UPDATE queue.scheduled SET due_time = now()")
    assert await rows.do(upkeep.promote) == [Ready(run, QUEUE)]
    session = await rows.session()
    for _ in range(2):
        ((most,),) = await rows.sql("SELECT expire_time - ready_time FROM queue.ready")
        assert most == timedelta(minutes=1)
        key = await rows.claim(run, session)
        await rows.do(attempts.give_back, transitions.RETURN, {key: "once more"})


async def test_a_run_that_is_being_claimed_is_not_failed(rows: QueueRows):
    run = await rows.submit(max_wait=timedelta(minutes=1))
    await rows.sql("UPDATE queue.ready SET expire_time = now()")
    async with transaction(rows.engine) as claiming:
        await claiming.execute(text("SELECT FROM queue.ready FOR UPDATE"))
        assert await rows.do(upkeep.expire_waiting) == []
    assert await rows.do(upkeep.expire_waiting) == [run]


async def test_runs_left_at_a_drain_deadline_are_preempted_by_their_epoch(rows: QueueRows):
    session, other = await rows.session(), await rows.session("agents/two")
    key = await rows.held(session)
    spared = await rows.held(other)
    await rows.api(agents.drain_by, session.agent, HOUR)
    assert await rows.do(upkeep.preempt_overdue_drains) == []
    await rows.api(agents.drain_by, session.agent, timedelta(0))
    assert await rows.do(upkeep.preempt_overdue_drains) == [key.run]
    assert await rows.do(upkeep.preempt_overdue_drains) == []
    (lease,) = await rows.do(sessions.stops, [key.run, spared.run])
    assert (lease.key, lease.stop.reason) == (key, StopReason.PREEMPTED)


async def test_a_drain_without_a_deadline_preempts_nothing(rows: QueueRows):
    session = await rows.session()
    await rows.held(session)
    await rows.api(agents.drain_by, session.agent, timedelta(0))
    await rows.api(agents.drain_by, session.agent, None)
    assert await rows.do(upkeep.preempt_overdue_drains) == []


async def test_an_agents_own_drain_keeps_the_deadline_and_a_new_process_ends_it(rows: QueueRows):
    session = await rows.session()
    await rows.api(agents.drain_by, session.agent, HOUR)
    deadline = (await rows.api(agents.get, session.agent)).drain_deadline
    await rows.do(sessions.drain, session)
    assert deadline is not None
    assert (await rows.api(agents.get, session.agent)).drain_deadline == deadline
    await rows.session()
    found = await rows.api(agents.get, session.agent)
    assert (found.draining, found.drain_deadline) == (False, None)


async def test_only_a_run_that_an_agent_holds_can_be_preempted(rows: QueueRows):
    run = await rows.submit()
    with pytest.raises(FailedPrecondition, match="is QUEUED") as refused:
        await rows.api(runs.preempt, run)
    assert refused.value.reason == "RUN_NOT_ACTIVE"
    with pytest.raises(NotFound):
        await rows.api(runs.preempt, "runs/none")


async def test_a_leader_keeps_its_lead_and_is_followed_when_its_term_ends(rows: QueueRows):
    one, two = uuid4(), uuid4()

    async def leads(holder: object, name: str = "sweep") -> bool:
        return await rows.do(leaders.lead, name, holder, HOUR)

    assert await leads(one)
    assert await leads(one)
    assert not await leads(two)
    assert await leads(two, "other work")
    await rows.sql("UPDATE queue.leaders SET expires_at = now() - interval '1 s' WHERE name = 'sweep'")
    assert await leads(two)
    assert not await leads(one)
    ((term,),) = await rows.sql("SELECT term FROM queue.leaders WHERE name = 'sweep'")
    assert term == 2


async def test_of_two_that_would_lead_at_once_one_does(rows: QueueRows):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(rows.do(leaders.lead, "sweep", uuid4(), HOUR)) for _ in range(5)]
    assert sorted(task.result() for task in tasks) == [False] * 4 + [True]


async def test_two_leaders_at_once_are_harmless(rows: QueueRows):
    """Each does all of the upkeep; every run is moved once."""
    session = await rows.session()
    lost = [await rows.held(session) for _ in range(10)]
    expired = [await rows.submit(max_wait=timedelta(seconds=1)) for _ in range(10)]
    due = [await rows.submit(due=datetime.now(UTC) + HOUR) for _ in range(10)]
    await rows.sql("UPDATE queue.ready SET expire_time = now()")
    await rows.sql("UPDATE queue.scheduled SET due_time = now()")
    await silence(rows, WELL)

    async def sweep() -> tuple[list[str], list[str], list[str]]:
        return (
            [ended.key.run for ended in await rows.do(upkeep.take_back_lost, WELL)],
            await rows.do(upkeep.expire_waiting),
            [ready.run for ready in await rows.do(upkeep.promote)],
        )

    async with asyncio.TaskGroup() as group:
        sweeps = [group.create_task(sweep()) for _ in range(3)]
    for part, runs_moved in enumerate([[key.run for key in lost], expired, due]):
        assert sorted(run for task in sweeps for run in task.result()[part]) == sorted(runs_moved)
    waiting = sorted(row.run for row in await rows.sql("SELECT first_run AS run FROM queue.ready"))
    assert waiting == sorted([*(key.run for key in lost), *due])


async def test_answers_are_kept_for_a_week(rows: QueueRows):
    ages = [timedelta(days=6, hours=23), timedelta(days=7, minutes=1), timedelta(days=30)]
    for age in ages:
        await rows.sql(
            "INSERT INTO queue.requests (method, request_id, digest, response, create_time)"
            " VALUES ('m', gen_random_uuid(), '', '', now() - CAST(:age AS interval))",
            age=age,
        )
    assert await rows.do(upkeep.forget_requests) == 2
    assert await rows.do(upkeep.forget_requests) == 0
    ((left,),) = await rows.sql("SELECT now() - create_time FROM queue.requests")
    assert left < timedelta(days=7)


JANUARY = datetime(2020, 1, 15, tzinfo=UTC)


async def partitions(rows: QueueRows) -> list[str]:
    found = await rows.sql(
        "SELECT relname FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid"
        " WHERE inhparent = CAST('queue.attempts' AS regclass) ORDER BY relname"
    )
    return [row.relname for row in found]


def month(ahead: int) -> str:
    now = datetime.now(UTC)
    year, number = divmod(now.year * 12 + now.month - 1 + ahead, 12)
    return f"attempts_{year}_{number + 1:02}"


async def attempt_rows(rows: QueueRows) -> list[tuple[str, str]]:
    found = await rows.sql(
        "SELECT run, CAST(tableoid AS regclass)::text AS place FROM queue.attempts ORDER BY run"
    )
    return [(row.run, row.place.removeprefix("queue.")) for row in found]


async def ended_at(rows: QueueRows, end: datetime) -> str:
    """Let an attempt end, and have it ended at another time."""
    key = await rows.held(await rows.session())
    await rows.finish(key)
    await rows.sql("UPDATE queue.attempts SET end_time = :end WHERE run = :run", end=end, run=key.run)
    return key.run


async def test_partitions_are_made_ahead_and_what_had_none_moves_in(rows: QueueRows):
    ahead = [month(0), month(1), month(2)]
    assert await partitions(rows) == [*ahead, "attempts_default"]
    for name in ahead:
        await rows.sql(f"DROP TABLE queue.{name}")
    now = datetime.now(UTC)
    runs_ended = [await ended_at(rows, JANUARY), await ended_at(rows, now)]
    assert await attempt_rows(rows) == [(run, "attempts_default") for run in runs_ended]
    for _ in range(2):  # the second time there is nothing to do
        assert await upkeep.keep_attempts(rows.database, None)
        assert await partitions(rows) == [*ahead, "attempts_default"]
        assert await attempt_rows(rows) == [(runs_ended[0], "attempts_default"), (runs_ended[1], month(0))]
    key = await rows.held(await rows.session())
    await rows.finish(key)
    assert (key.run, month(0)) in await attempt_rows(rows)


async def test_made_ahead_or_by_the_migration_partitions_are_alike(rows: QueueRows):
    query = (
        "SELECT pg_get_expr(relpartbound, oid) AS bounds, reloptions,"
        " ARRAY(SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = pg_class.oid) AS indexes,"
        " ARRAY(SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = pg_class.oid"
        "       ORDER BY 1) AS constraints"
        f" FROM pg_class WHERE oid = CAST('queue.{month(1)}' AS regclass)"
    )
    (made,) = await rows.sql(query)
    await rows.sql(f"DROP TABLE queue.{month(1)}")
    assert await upkeep.keep_attempts(rows.database, None)
    (again,) = await rows.sql(query)
    assert again == made


@pytest.fixture
async def january(rows: QueueRows) -> AsyncIterator[str]:
    """Give the name of a partition that is there while a test runs."""
    name = "attempts_2020_01"
    await rows.sql(
        f"CREATE TABLE queue.{name} PARTITION OF queue.attempts"
        " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00')"
    )
    yield name
    await rows.sql(f"DROP TABLE IF EXISTS queue.{name}")


async def test_a_month_is_dropped_once_all_of_it_is_too_old(rows: QueueRows, january: str):
    old, late = await ended_at(rows, JANUARY), await ended_at(rows, JANUARY + timedelta(days=40))
    recent = await ended_at(rows, datetime.now(UTC))
    now = datetime.now(UTC)
    assert await upkeep.keep_attempts(rows.database, None)
    assert await upkeep.keep_attempts(rows.database, now - datetime(2020, 1, 31, 23, tzinfo=UTC))
    kept = [(old, january), (late, "attempts_default"), (recent, month(0))]
    assert await attempt_rows(rows) == kept
    assert await upkeep.keep_attempts(rows.database, now - datetime(2020, 2, 1, 1, tzinfo=UTC))
    assert january not in await partitions(rows)
    assert await attempt_rows(rows) == kept[1:]
    assert await upkeep.keep_attempts(rows.database, timedelta(days=400))
    assert await attempt_rows(rows) == kept[2:]
    assert len(await rows.sql("SELECT name FROM queue.runs WHERE state = 7")) == 3


async def test_a_partition_that_is_in_use_is_dropped_later(
    rows: QueueRows, january: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(upkeep, "_LOCK_WITHIN", timedelta(milliseconds=50))
    async with transaction(rows.engine) as reading:
        await reading.execute(text("SELECT FROM queue.attempts"))
        assert not await upkeep.keep_attempts(rows.database, timedelta(days=400))
        assert january in await partitions(rows)
    assert await upkeep.keep_attempts(rows.database, timedelta(days=400))
    assert january not in await partitions(rows)
