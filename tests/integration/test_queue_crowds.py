"""Agents that do not read, agents that say too much, and agents that all come at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import grpc
import pytest

from towline.errors import ResourceExhausted
from towline.rpc.channel import OPTIONS
from towline.rpc.status import to_error
from towline.v1 import leases_pb2, runs_pb2
from towline_testing.fake_agent import FakeAgent
from towline_testing.lease_world import LeaseWorld, lease_world
from towline_testing.waiting import eventually_async

# It is about streams; their statements run on each version elsewhere.
pytestmark = pytest.mark.one_postgres


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


async def test_an_agent_that_does_not_read_loses_its_session_and_keeps_its_lease(
    world: LeaseWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("towline_queue.connections._OUTBOX", 8)
    deaf, other = FakeAgent(), FakeAgent("agents/other")
    async with deaf.connected(world.service.channel) as session:
        await session.beat()
        await world.submit()
        grant = await session.next_accepted()
        await session.event(grant, 1, runs_pb2.RUN_STATE_RUNNING)
        await world.reaches(grant.spec.run, runs_pb2.RUN_STATE_RUNNING)
        await session.drop()
    # Nothing is read of the answers, which are more than a connection takes at once.
    result = leases_pb2.AttemptResult(outcome=runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED)
    finish = leases_pb2.Finish(lease_id="nonsense", epoch=1, finish_id=str(uuid4()), result=result)
    flood = leases_pb2.StreamLeasesRequest(finishes=[finish] * 500)
    async with asyncio.timeout(60), other.connected(world.service.channel) as unharmed:
        call = world.service.leases.StreamLeases()
        await call.write(leases_pb2.StreamLeasesRequest(hello=deaf.hello()))
        while "agents/one does not read what it is sent" not in caplog.text:
            await call.write(flood)
        await unharmed.beat()
        assert (await world.get(grant.spec.run)).state == runs_pb2.RUN_STATE_RUNNING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await call.read() is not grpc.aio.EOF:
                pass
        assert to_error(caught.value, peer="queue").reason == "OUTBOX_FULL"
    async with deaf.connected(world.service.channel) as session:
        assert session.verdicts == {grant.lease_id: leases_pb2.VERDICT_ACTION_ADOPT}
        assert await session.finish(grant) == leases_pb2.FINISH_VERDICT_OK


async def test_two_hundred_agents_that_reconnect_at_once_all_get_in(world: LeaseWorld):
    """Each over its own connection and without a second try, as after a restart of the service."""
    welcomed = 0

    async def reconnect(number: int) -> None:
        nonlocal welcomed
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        agent = FakeAgent(f"agents/a{number}")
        async with (
            grpc.aio.insecure_channel(world.service.address, options=options) as channel,
            agent.connected(channel) as session,
        ):
            await session.beat()
            welcomed += 1
            if welcomed == 200:
                everybody.set()
            await everybody.wait()

    everybody = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(reconnect(number))
    assert welcomed == 200


@asynccontextmanager
async def locked(world: LeaseWorld, statement: str) -> AsyncIterator[None]:
    """Hold the locks of a statement while the block runs."""
    connection = await asyncpg.connect(world.database_url)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


async def test_an_agent_that_says_more_than_can_be_carried_out_is_held_back_and_loses_nothing(
    world: LeaseWorld,
):
    many = 64
    loud, other = FakeAgent(), FakeAgent("agents/other")
    written = 0

    async with (
        loud.connected(world.service.channel) as session,
        grpc.aio.insecure_channel(world.service.address, options=OPTIONS) as channel,
        other.connected(channel) as unharmed,
    ):
        await session.beat()
        await world.submit()
        grant = await session.next_accepted()

        async def say_all() -> None:
            nonlocal written
            for number in range(1, many + 1):
                # Far more than is kept of a detail, as a broken agent may send.
                await session.event(grant, number, runs_pb2.RUN_STATE_RUNNING, detail="x" * 1024 * 1024)
                written = number

        async with asyncio.TaskGroup() as group, locked(world, "SELECT FROM queue.leases FOR UPDATE"):
            group.create_task(say_all())
            before = -1
            while before != written:
                before = written
                for _ in range(5):
                    await unharmed.beat()
            assert 0 < written < many / 2
        await session.beat()
        assert (await world.sql("SELECT event_seq FROM queue.leases"))[0][0] == many


async def test_more_newcomers_than_can_wait_are_told_when_to_come_back(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("towline_queue.session_desk._MOST_NEWCOMERS", 1)
    one, two = FakeAgent(), FakeAgent("agents/two")
    async with lease_world(database_url, tmp_path) as world:
        async with one.connected(world.service.channel):
            pass

        async def waits() -> int:
            return (await world.sql("SELECT count(*) FROM pg_locks WHERE NOT granted"))[0][0]

        async def connect() -> None:
            async with one.connected(world.service.channel) as session:
                await session.beat()

        async with asyncio.TaskGroup() as group, locked(world, "SELECT FROM queue.agents FOR UPDATE"):
            connecting = group.create_task(connect())
            await eventually_async(waits)
            with pytest.raises(ResourceExhausted) as caught:
                async with two.connected(world.service.channel):
                    pass
            assert caught.value.reason == "OVERLOADED"
            assert caught.value.retry_after >= timedelta(seconds=1)
            assert not connecting.done()
        async with two.connected(world.service.channel) as session:
            await session.beat()


async def test_a_broken_connection_is_no_good_bye(world: LeaseWorld):
    agent = FakeAgent()

    async def is_served() -> bool:
        return any(task.get_name() in ("read", "handle") for task in asyncio.all_tasks())

    async def is_over() -> bool:
        return not await is_served()

    for how, kept in (("break", True), ("leave", False)):
        async with agent.connected(world.service.channel) as session:
            await session.beat()
            assert await is_served()
            if how == "break":
                await session.drop()
        await eventually_async(is_over)
        assert (await world.sql("SELECT session IS NOT NULL FROM queue.agents"))[0][0] is kept
