"""Who gets which run, and when."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from towline.service.postgres import connecting
from towline.v1 import leases_pb2, queues_pb2, runs_pb2
from towline_queue import dispatcher
from towline_queue.core.dispatch import Search
from towline_queue.core.leases import Claimed
from towline_queue.core.matching import Lane, Offer, spread
from towline_queue.storage import claims
from towline_queue.storage.database import opening
from towline_queue.storage.lease_store import PostgresLeaseStore
from towline_testing.fake_agent import FakeAgent, FakeSession
from towline_testing.lease_world import LeaseWorld, lease_world, queue_spec
from towline_testing.plans import recording
from towline_testing.queue import new_id
from towline_testing.waiting import eventually_async

OK = leases_pb2.FINISH_VERDICT_OK


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


async def drain(session: FakeSession, count: int) -> list[str]:
    """Take and finish runs one after another; return their names in the order they came."""
    order = []
    await session.beat()
    for _ in range(count):
        grant = await session.next_accepted()
        order.append(grant.spec.run)
        assert await session.finish(grant) == OK
        await session.beat()
    return order


async def test_first_in_first_out(world: LeaseWorld):
    names = [await world.submit() for _ in range(3)] + await world.submit_many(5)
    async with FakeAgent().connected(world.service.channel) as session:
        assert await drain(session, 8) == names


async def test_higher_priorities_first(world: LeaseWorld):
    priorities = [
        runs_pb2.PRIORITY_LOW,
        runs_pb2.PRIORITY_UNSPECIFIED,
        runs_pb2.PRIORITY_CRITICAL,
        runs_pb2.PRIORITY_HIGH,
        runs_pb2.PRIORITY_MEDIUM,
    ]
    names = [await world.submit(priority=priority) for priority in priorities]
    async with FakeAgent().connected(world.service.channel) as session:
        assert await drain(session, 5) == [names[index] for index in (2, 3, 1, 4, 0)]


@pytest.fixture
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be found by looking once in a while: what arrives was pushed."""
    monkeypatch.setattr("towline_queue.dispatcher.POLL", timedelta(hours=1))


async def test_an_idle_agent_gets_a_run_without_a_poll(no_poll: None, world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        assert (await session.next_grant()).spec.run == run


async def test_a_waiting_run_goes_to_an_agent_that_becomes_free_without_a_poll(
    no_poll: None, world: LeaseWorld
):
    run = await world.submit()
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        assert (await session.next_grant()).spec.run == run


async def test_a_run_submitted_at_another_replica_is_found_by_the_poll(world: LeaseWorld):
    async with world.another() as replica, FakeAgent().connected(replica.channel) as session:
        await session.beat()
        run = await world.submit()
        assert (await session.next_grant()).spec.run == run


async def test_an_agent_gets_no_more_than_it_can_take(world: LeaseWorld):
    await world.submit_many(5)
    agent = FakeAgent(slots=2)
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        first = await session.next_grant()
        await session.next_grant()
        # Neither repeating the same credits nor an older word makes room for a third.
        await session.beat(free_slots=2, grant_seq_seen=0)
        await session.beat(capacity_gen=0, free_slots=5)
        await session.beat(free_slots=0)
        assert len(session.grants) == 2
        await session.accept(*session.grants)
        assert await session.finish(first) == OK
        await session.beat()
        await session.until(lambda: len(session.grants) == 3)


async def test_gpus_are_never_given_twice(world: LeaseWorld):
    gpus = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")
    wanted = [2, 1, 1, 2, 1]  # once four are in use, each that ends makes room for the next
    for count in wanted:
        await world.submit(gpus=count)
    agent = FakeAgent(slots=8, gpus=gpus)
    in_use: Counter[str] = Counter()
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        # The agent claims that everything is free, whatever it holds.
        for done in range(len(wanted)):
            grant = await session.next_accepted()
            in_use.update(grant.gpu_ids)
            assert max(in_use.values()) == 1
            await session.beat(free_slots=8, free_gpu_ids=gpus)
            held = await world.sql("SELECT unnest(gpu_ids) AS gpu FROM queue.leases")
            assert len(held) == len({row["gpu"] for row in held}) <= len(gpus)
            if done >= 2:
                over = next(iter(agent.held.values()))
                in_use.subtract(over.gpu_ids)
                assert await session.finish(over) == OK
                await session.beat()


async def test_a_run_without_a_fitting_agent_is_passed_by_smaller_ones(world: LeaseWorld):
    large = await world.submit(gpus=2)
    small = await world.submit(gpus=1)
    async with FakeAgent(slots=4, gpus=("GPU-a",)).connected(world.service.channel) as session:
        await session.beat()
        assert (await session.next_grant()).spec.run == small
        async with FakeAgent("agents/big", slots=4, gpus=("GPU-x", "GPU-y")).connected(
            world.service.channel
        ) as big:
            await big.beat()
            grant = await big.next_grant()
            assert (grant.spec.run, set(grant.gpu_ids)) == (large, {"GPU-x", "GPU-y"})


async def test_a_large_run_is_not_starved(database_url: str, tmp_path: Path):
    agent = FakeAgent(slots=4, gpus=("GPU-a", "GPU-b"))
    async with (
        lease_world(database_url, tmp_path, reserve_after_s=0) as world,
        agent.connected(world.service.channel) as session,
    ):
        await world.submit(gpus=1)
        await session.beat()
        busy = await session.next_accepted()
        large = await world.submit(gpus=2)
        await world.submit(gpus=1)
        await session.beat()
        assert await session.finish(busy) == OK
        await session.beat()
        assert (await session.next_grant()).spec.run == large


async def test_the_preferred_queue_comes_first(world: LeaseWorld):
    await world.service.create_queue("queues/second", queue_spec())
    other = await world.submit(queue="queues/second")
    preferred = await world.submit()
    agent = FakeAgent(queues=("queues/default", "queues/second"))
    async with agent.connected(world.service.channel) as session:
        assert await drain(session, 2) == [preferred, other]


async def test_a_paused_queue_hands_out_nothing_until_resumed(no_poll: None, world: LeaseWorld):
    pause = queues_pb2.PauseQueueRequest(request_id=new_id(), name="queues/default")
    await world.service.queues.PauseQueue(pause)
    run = await world.submit()
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        await session.beat()
        assert session.grants == []
        resume = queues_pb2.ResumeQueueRequest(request_id=new_id(), name="queues/default")
        await world.service.queues.ResumeQueue(resume)
        assert (await session.next_grant()).spec.run == run


async def test_a_refused_run_goes_to_another_agent(world: LeaseWorld):
    refusing, willing = FakeAgent("agents/refusing"), FakeAgent("agents/willing")
    async with (
        refusing.connected(world.service.channel) as session,
        willing.connected(world.service.channel) as other,
    ):
        await session.beat()
        run = await world.submit()
        grant = await session.next_grant()
        refusal = leases_pb2.GrantReply(lease_id=grant.lease_id, epoch=grant.epoch, reason="no disk space")
        # It says in one breath that it refuses and that it is free.
        await session.say(grant_replies=[refusal], heartbeat=session.heartbeat())
        await other.beat()
        assert (await other.next_accepted()).spec.run == run
        assert len(session.grants) == 1
        first, second = (await world.get(run)).attempts
        assert (first.agent, first.outcome) == ("agents/refusing", runs_pb2.ATTEMPT_OUTCOME_RELEASED)
        assert (second.agent, second.outcome) == ("agents/willing", 0)


async def test_a_refusal_says_why_the_run_waits_again(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        await session.reply(False, await session.next_grant(), reason="no disk space")
        await world.reaches(run, runs_pb2.RUN_STATE_QUEUED)
        (row,) = await world.sql("SELECT detail FROM queue.ready")
        assert row["detail"] == "agents/one refused it: no disk space"


async def test_a_refusing_agent_is_asked_again_later(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit()
        await session.reply(False, await session.next_grant())
        await session.beat()
        assert (await session.next_accepted()).spec.run == run


async def test_a_grant_without_an_answer_waits_again(database_url: str, tmp_path: Path):
    async with (
        lease_world(database_url, tmp_path, grant_reply_within_s=0.2) as world,
        FakeAgent().connected(world.service.channel) as session,
    ):
        await session.beat()
        run = await world.submit()
        grant = await session.next_grant()

        async def taken_back() -> bool:
            await session.beat(free_slots=0, lease_set_digest="")
            return (await world.get(run)).state == runs_pb2.RUN_STATE_QUEUED

        while not await taken_back():
            pass
        await session.beat(free_slots=0)
        assert grant.lease_id in session.lost
        (row,) = await world.sql("SELECT detail FROM queue.ready")
        assert row["detail"] == "agents/one did not answer within 0.2 s."


async def test_an_accepted_grant_is_never_taken_back_for_want_of_an_answer(database_url: str, tmp_path: Path):
    async with (
        lease_world(database_url, tmp_path, grant_reply_within_s=0.05) as world,
        FakeAgent().connected(world.service.channel) as session,
    ):
        await session.beat()
        await world.submit()
        grant = await session.next_accepted()
        for _ in range(10):
            await session.beat()
        assert await session.finish(grant) == OK
        assert session.lost == []


@pytest.mark.parametrize("replicas", [1, 2])
async def test_every_run_is_granted_once_however_many_ask(world: LeaseWorld, replicas: int):
    """Eight agents, on one or two services, race for 120 runs."""
    names = await world.submit_many(120)
    granted: list[tuple[str, int]] = []

    async def work(session: FakeSession) -> None:
        await session.beat()
        while len(granted) < len(names):
            try:
                grant = await session.next_accepted(within=0.3)
            except TimeoutError:
                continue
            granted.append((grant.spec.run, grant.epoch))
            assert await session.finish(grant) == OK
            await session.beat()

    async with AsyncExitStack() as stack:
        services = [world.service]
        services += [await stack.enter_async_context(world.another()) for _ in range(replicas - 1)]
        sessions = [
            await stack.enter_async_context(
                FakeAgent(f"agents/a{number}", slots=3).connected(services[number % replicas].channel)
            )
            for number in range(8)
        ]
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(work(session))
    assert sorted(granted) == sorted((name, 1) for name in names)
    assert await world.sql("SELECT FROM queue.leases") == await world.sql("SELECT FROM queue.ready") == []


async def test_a_crash_between_claim_and_grant_loses_nothing(database_url: str, tmp_path: Path):
    """What the service committed but never sent is settled by the agent's next Hello."""
    async with lease_world(database_url, tmp_path) as world:
        agent = FakeAgent()
        async with agent.connected(world.service.channel) as session:
            await session.beat()
            await session.drop()
            run = await world.submit()
            # The claim, as the dispatcher commits it, without a Grant after it.
            await world.sql(
                "WITH taken AS (DELETE FROM queue.ready RETURNING *)"
                " INSERT INTO queue.leases"
                "   (run, epoch, number, session, agent, queue, gpu_ids, lost_after, state)"
                " SELECT first_run, epoch, number, agents.session, agents.name, queue, '{}', '120 s', 3"
                " FROM taken, queue.agents"
            )
        async with world.another() as restarted, agent.connected(restarted.channel) as session:
            assert (await world.get(run)).state == runs_pb2.RUN_STATE_QUEUED
            await session.beat()
            assert (await session.next_accepted()).epoch == 2


async def test_a_draining_agent_gets_nothing(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel) as session:
        await session.say(drain=leases_pb2.Drain())
        await session.beat()
        await world.submit()
        await session.beat()
        await session.beat()
        assert session.grants == []


async def test_claims_that_overlap_never_give_away_one_gpu_twice(database_url: str, tmp_path: Path):
    """A claim whose commit nobody waits for any more, and the next one of the same session."""
    async with (
        # Its own dispatcher has nothing to offer: the agent sends no heartbeat.
        lease_world(database_url, tmp_path) as world,
        connecting(database_url) as engine,
        opening(engine, size=2) as database,
        FakeAgent(gpus=("GPU-1",)).connected(world.service.channel) as session,
    ):
        for _ in range(2):
            await world.submit(gpus=1)
        offer = Offer(
            session=UUID(session.welcome.session_id),
            agent="agents/one",
            queues=("queues/default",),
            free_slots=1,
            free_gpus=frozenset({"GPU-1"}),
            total_gpus=1,
        )
        lane = Lane("queues/default", 1)
        store = PostgresLeaseStore(database)

        async def hand_out() -> Sequence[Claimed]:
            search = Search(lane, 1, anew=False)
            handed_out = await store.hand_out(
                [offer], [search], lambda offers, _: spread(offers, lane, search.most)
            )
            return handed_out.claimed

        async with database.transaction() as first:
            assert await claims.held_gpus(first, ["agents/one"]) == {"agents/one": set()}
            await first.rows(
                "claim",
                queues=[lane.queue],
                shapes=[lane.shape],
                lanes=[1],
                agents=[offer.agent],
                sessions=[offer.session],
                slots=[1],
                gpu_ids=["GPU-1"],
                priorities=[1, 2, 3, 4],
                floors=[0, 0, 0, 0],
                state=runs_pb2.RUN_STATE_LEASED,
            )
            assert await hand_out() == []  # while the first is not committed
        assert await hand_out() == []  # and after it is
        assert len(await world.sql("SELECT FROM queue.leases")) == 1


async def test_a_search_begins_past_what_was_handed_out_and_anew_before_it(database_url: str, tmp_path: Path):
    now_s = 0.0
    async with (
        lease_world(database_url, tmp_path) as world,
        connecting(database_url) as engine,
        opening(engine, size=2) as database,
        FakeAgent().connected(world.service.channel) as session,
    ):
        names = await world.submit_many(7)
        store = claims.Claims(database, clock=lambda: now_s)
        queues = ("queues/default",)
        offer = Offer(UUID(session.welcome.session_id), "agents/one", queues, 2, frozenset(), 0)
        lane = Lane("queues/default", 0)

        async def hand_out(*, anew: bool = False) -> list[str]:
            handed_out = await store.hand_out(
                [offer], [Search(lane, 2, anew)], lambda offers, _: spread(offers, lane, 2)
            )
            return [lease.key.run for lease in handed_out.claimed]

        async def wait_again(*runs: str) -> None:
            await world.sql(
                "WITH gone AS (DELETE FROM queue.leases WHERE run = ANY($1) RETURNING run, epoch)"
                " INSERT INTO queue.ready (queue, shape, priority, seq, first_run, epoch, number)"
                " SELECT queue, shape, priority, seq, name, epoch + 1, 1"
                " FROM gone JOIN queue.runs ON runs.name = gone.run",
                runs,
            )

        assert await hand_out() == names[:2]
        await wait_again(names[0])
        assert await hand_out() == [names[0], names[2]]  # it may have been committed late
        unknown = replace(offer, session=uuid4())
        for later_s in (2.0, 4.0, 6.0):  # time enough for the marks to settle
            now_s = later_s
            refused = await store.hand_out(
                [unknown], [Search(lane, 1, anew=False)], lambda offers, _: spread(offers, lane, 1)
            )
            assert refused.claimed == []
            assert refused.refused == {unknown.session}
        await wait_again(*names[:3])
        assert await hand_out() == names[3:5]
        assert await hand_out(anew=True) == names[:2]
        assert await hand_out() == [names[2], names[5]]  # what was found before the mark has moved it


async def test_runs_that_somebody_held_are_looked_for_again_soon(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "POLL", timedelta(hours=1))
    monkeypatch.setattr(dispatcher, "_LONGEST_REST_S", 3600.0)
    async with (
        lease_world(database_url, tmp_path) as world,
        FakeAgent().connected(world.service.channel) as session,
    ):
        await world.submit_many(3)
        other = await asyncpg.connect(database_url)
        try:
            with recording(monkeypatch) as recorded:

                async def tried_twice() -> bool:
                    return [sent.name for sent in recorded].count("claim") >= 2

                async with other.transaction():
                    await other.execute("SELECT FROM queue.ready FOR UPDATE")
                    await session.beat()
                    await eventually_async(tried_twice)
            await session.next_grant()
        finally:
            await other.close()
