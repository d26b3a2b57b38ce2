"""Agents that do not read, and agents that all come at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from towline.rpc.channel import OPTIONS
from towline.rpc.status import to_error
from towline.v1 import leases_pb2, runs_pb2
from towline_testing.fake_agent import FakeAgent
from towline_testing.lease_world import LeaseWorld, lease_world


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
