"""What becomes of runs whose agents are silent, and of what waits for a time."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from towline.service.postgres import connecting
from towline.v1 import fleet_pb2, leases_pb2, runs_pb2
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import Ended
from towline_queue.core.transitions import State
from towline_queue.reaper import Reaper, UpkeepTimes
from towline_queue.signals import Signals
from towline_queue.storage.attempts import accept
from towline_queue.storage.database import opening
from towline_queue.storage.lease_store import PostgresLeaseStore
from towline_queue.storage.upkeep import take_back_lost
from towline_testing.fake_agent import FakeAgent, failed
from towline_testing.lease_world import LeaseWorld, lease_world, policy
from towline_testing.queue import new_id
from towline_testing.waiting import eventually_async

OK = leases_pb2.FINISH_VERDICT_OK
STALE = leases_pb2.FINISH_VERDICT_STALE_EPOCH

SHORT = policy(heartbeat_s=0.1, disconnected_s=1.0, lost_s=2.0)


async def running(world: LeaseWorld, agent: FakeAgent) -> leases_pb2.Grant:
    """Give the agent a run that is RUNNING, and break its connection."""
    async with agent.connected(world.service.channel, beating=True) as session:
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        # Nothing that it sends by itself may be under way still, and be written after what a test writes.
        session.frozen = True
        await session.beat()
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_RUNNING
        await session.drop()
    return grant


async def test_a_silent_agents_run_is_unreachable_and_then_waits_again(database_url: str, tmp_path: Path):
    async with lease_world(database_url, tmp_path, policy=SHORT) as world:
        grant = await running(world, FakeAgent())

        async def unreachable() -> bool:
            found = await world.get(grant.spec.run)
            assert found.state in {runs_pb2.RUN_STATE_RUNNING, runs_pb2.RUN_STATE_QUEUED}
            return found.unreachable

        await eventually_async(unreachable)
        waiting = await world.reaches(grant.spec.run, runs_pb2.RUN_STATE_QUEUED)
        assert not waiting.unreachable
        (attempt,) = waiting.attempts
        assert attempt.outcome == runs_pb2.ATTEMPT_OUTCOME_LOST
        assert attempt.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST
        (row,) = await world.sql("SELECT detail FROM queue.ready")
        assert row["detail"].endswith("agents/one was silent for over 2 s.")


async def test_a_late_result_after_another_agent_got_the_run(database_url: str, tmp_path: Path):
    async with lease_world(database_url, tmp_path, policy=SHORT) as world:
        first, second = FakeAgent("agents/first"), FakeAgent("agents/second")
        old = await running(world, first)
        await world.reaches(old.spec.run, runs_pb2.RUN_STATE_QUEUED)
        async with second.connected(world.service.channel, beating=True) as session:
            new = await session.next_accepted()
            assert (new.epoch, new.attempt) == (2, 2)
            async with first.connected(world.service.channel) as late:
                assert late.verdicts == {old.lease_id: leases_pb2.VERDICT_ACTION_STOP_STALE}
                assert await late.finish(old) == STALE
            assert await session.finish(new) == OK
        ended = await world.get(old.spec.run)
        assert ended.state == runs_pb2.RUN_STATE_SUCCEEDED
        assert [attempt.outcome for attempt in ended.attempts] == [
            runs_pb2.ATTEMPT_OUTCOME_LOST,
            runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED,
        ]


async def test_an_agent_that_comes_back_on_its_old_stream_learns_what_it_lost(
    database_url: str, tmp_path: Path
):
    async with lease_world(database_url, tmp_path, policy=SHORT) as world:
        agent = FakeAgent()
        async with agent.connected(world.service.channel, beating=True) as session:
            run = await world.submit()
            grant = await session.next_accepted()
            await session.beat()
            session.frozen = True  # the connection lives, the heart does not beat
            await world.reaches(run, runs_pb2.RUN_STATE_QUEUED)
            renewed = await session.beat(free_slots=0)
            assert list(renewed.lost_lease_ids) == [grant.lease_id]
            assert await session.finish(grant) == STALE
            session.frozen = False
            again = await session.next_accepted()
            assert (again.spec.run, again.epoch) == (run, 2)


async def test_a_lost_run_that_was_to_be_cancelled_is_cancelled(database_url: str, tmp_path: Path):
    async with lease_world(database_url, tmp_path, policy=SHORT) as world:
        grant = await running(world, FakeAgent())
        await world.cancel(grant.spec.run)
        ended = await world.reaches(grant.spec.run, runs_pb2.RUN_STATE_CANCELLED)
        assert ended.attempts[0].outcome == runs_pb2.ATTEMPT_OUTCOME_LOST
        assert ended.failure.cause == runs_pb2.FAILURE_CAUSE_CANCELLED
        assert await world.sql("SELECT FROM queue.leases") == []


async def test_a_beating_agent_is_never_lost(database_url: str, tmp_path: Path):
    async with lease_world(database_url, tmp_path, policy=SHORT) as world:
        agent = FakeAgent()
        async with agent.connected(world.service.channel, beating=True) as session:
            run = await world.submit()
            grant = await session.next_accepted()
            # Longer than it could have been silent.
            await session.until(lambda: len(session.renewed) > 30)
            assert await session.finish(grant) == OK
        assert len((await world.get(run)).attempts) == 1


async def test_nobody_is_lost_before_the_service_has_been_well_for_a_whole_ttl(
    database_url: str, tmp_path: Path
):
    """After an outage it is not the agents that were silent."""
    ttl = timedelta(seconds=60)
    async with (
        lease_world(database_url, tmp_path, policy=policy(disconnected_s=30, lost_s=60)) as world,
        connecting(database_url) as engine,
        opening(engine, size=4) as database,
    ):
        grant = await running(world, FakeAgent())
        await world.sql("UPDATE queue.sessions SET seen_time = now() - interval '1 h'")
        store = PostgresLeaseStore(database)
        assert await store.take_back_lost(ttl - timedelta(milliseconds=1)) == []
        (lost,) = await store.take_back_lost(ttl)
        assert lost == Ended(AttemptKey(grant.spec.run, grant.epoch), "queues/default", State.QUEUED)


async def test_two_reapers_take_a_run_back_once(database_url: str, tmp_path: Path):
    async with (
        lease_world(database_url, tmp_path, policy=policy(disconnected_s=30, lost_s=60)) as world,
        connecting(database_url) as engine,
        opening(engine, size=4) as database,
    ):
        await running(world, FakeAgent())
        await world.sql("UPDATE queue.sessions SET seen_time = now() - interval '1 h'")
        async with database.transaction() as one, database.transaction() as other:
            assert len(await take_back_lost(one, timedelta(hours=1))) == 1
            assert await take_back_lost(other, timedelta(hours=1)) == []
        assert len(await world.sql("SELECT FROM queue.ready")) == 1


async def test_an_answer_given_while_it_is_being_missed_counts(database_url: str, tmp_path: Path):
    """The answer is being committed when the reaper looks for unanswered grants."""
    async with (
        lease_world(database_url, tmp_path) as world,
        connecting(database_url) as engine,
        opening(engine, size=4) as database,
        FakeAgent().connected(world.service.channel) as session,
    ):
        await session.beat()
        run = await world.submit()
        grant = await session.next_grant()
        await session.beat(free_slots=0)
        key = AttemptKey(run, grant.epoch)
        async with asyncio.TaskGroup() as group, database.transaction() as answering:
            assert await accept(answering, [key]) == {key}
            taken_back = group.create_task(PostgresLeaseStore(database).take_back_unanswered(timedelta(0)))
            while not await world.sql("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                assert not taken_back.done()
        assert taken_back.result() == []
        assert await session.finish(grant) == OK


async def test_a_result_and_the_reaper_race_and_exactly_one_wins(database_url: str, tmp_path: Path):
    async with (
        lease_world(database_url, tmp_path) as world,
        connecting(database_url) as engine,
        opening(engine, size=4) as database,
        FakeAgent(slots=40).connected(world.service.channel) as session,
    ):
        await session.beat()
        await world.submit_many(40)
        grants = [await session.next_accepted() for _ in range(40)]
        await session.beat()
        await world.sql("UPDATE queue.sessions SET seen_time = now() - interval '1 h'")

        async def reap() -> int:
            return len(await PostgresLeaseStore(database).take_back_lost(timedelta(hours=1)))

        async with asyncio.TaskGroup() as group:
            verdicts = [group.create_task(session.finish(grant)) for grant in grants[:20]]
            await session.until(lambda: session.confirms)
            reaped = group.create_task(reap())
            verdicts += [group.create_task(session.finish(grant)) for grant in grants[20:]]
        states = {
            row["name"]: row["state"]
            for row in await world.sql(
                "SELECT name, state FROM queue.runs WHERE state IS NOT NULL "
                "UNION ALL SELECT first_run, 2 FROM queue.ready"
            )
        }
        for grant, verdict in zip(grants, verdicts, strict=True):
            assert (verdict.result() == OK) == (states[grant.spec.run] == runs_pb2.RUN_STATE_SUCCEEDED)
            assert (verdict.result() == STALE) == (states[grant.spec.run] == runs_pb2.RUN_STATE_QUEUED)
        assert reaped.result() == sum(verdict.result() == STALE for verdict in verdicts)


async def test_a_scheduled_run_starts_when_it_is_due(database_url: str, tmp_path: Path):
    async with (
        lease_world(database_url, tmp_path) as world,
        FakeAgent().connected(world.service.channel) as session,
    ):
        await session.beat()
        due = Timestamp()
        due.FromDatetime(datetime.now(UTC) + timedelta(seconds=3))
        run = await world.submit(not_before=due)
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_SCHEDULED
        grant = await session.next_grant()
        assert grant.spec.run == run
        assert datetime.now(UTC) >= due.ToDatetime(UTC)


async def test_a_scheduled_run_that_was_cancelled_never_starts(database_url: str, tmp_path: Path):
    async with lease_world(database_url, tmp_path) as world:
        due = Timestamp()
        due.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
        run = await world.submit(not_before=due)
        assert (await world.cancel(run)).state == runs_pb2.RUN_STATE_CANCELLED
        assert await world.sql("SELECT FROM queue.scheduled") == []


async def test_a_new_leader_takes_nothing_back_before_it_was_well_for_a_whole_ttl(
    database_url: str, tmp_path: Path
):
    now_s = 1000.0
    async with (
        lease_world(
            database_url, tmp_path, policy=policy(disconnected_s=30, lost_s=60), upkeep_every_s=3600
        ) as world,
        connecting(database_url) as engine,
        opening(engine, size=4) as database,
    ):
        grant = await running(world, FakeAgent())
        await world.sql("UPDATE queue.sessions SET seen_time = now() - interval '1 h'")
        await world.sql("DELETE FROM queue.leaders")

        def reaper() -> Reaper:
            return Reaper(
                PostgresLeaseStore(database),
                Signals(),
                UpkeepTimes(every=timedelta(seconds=1), reply_within=timedelta(seconds=10)),
                clock=lambda: now_s,
            )

        async def is_running() -> bool:
            return (await world.get(grant.spec.run)).state == runs_pb2.RUN_STATE_RUNNING

        old, new = reaper(), reaper()
        await old.sweep()
        for _ in range(5):
            now_s += 10
            await old.sweep()
        await new.sweep()  # it does not lead yet, but sees that all is well
        # The old one is frozen, with a whole TTL of health nearly complete; its term ends.
        await world.sql("UPDATE queue.leaders SET expires_at = now() - interval '1 s'")
        for _ in range(5):
            now_s += 10
            await new.sweep()
            assert await is_running()
        assert (await world.sql("SELECT term FROM queue.leaders"))[0]["term"] == 2
        now_s += 100
        await old.sweep()  # thawed: it no longer leads
        assert await is_running()
        now_s -= 90
        await new.sweep()
        assert not await is_running()


async def test_a_drain_deadline_preempts_what_is_left(database_url: str, tmp_path: Path):
    async with (
        lease_world(database_url, tmp_path) as world,
        FakeAgent().connected(world.service.channel) as session,
    ):
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await session.beat()
        drain = fleet_pb2.DrainAgentRequest(request_id=new_id(), name="agents/one")
        drain.deadline.FromMilliseconds(300)
        await world.service.fleet.DrainAgent(drain)
        await session.until(lambda: session.cancels)  # pushed, without a heartbeat
        assert session.drained
        assert session.cancels[0].reason == leases_pb2.STOP_REASON_PREEMPTED
        assert await session.finish(grant, failed(runs_pb2.FAILURE_CAUSE_PREEMPTED, 143)) == OK
        assert (await world.get(run)).state == runs_pb2.RUN_STATE_QUEUED


async def test_a_run_that_nobody_takes_in_time_fails(database_url: str, tmp_path: Path):
    async with lease_world(database_url, tmp_path) as world:
        limits = runs_pb2.TimeLimits()
        limits.max_wait.FromMilliseconds(300)
        run = await world.submit(limits=limits)
        ended = await world.reaches(run, runs_pb2.RUN_STATE_FAILED)
        assert ended.failure.cause == runs_pb2.FAILURE_CAUSE_TIMEOUT
        assert await world.sql("SELECT FROM queue.ready") == []
        async with FakeAgent().connected(world.service.channel) as session:
            await session.beat()
            await session.beat()
            assert session.grants == []
