"""Agents as people see them, and draining."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from towline.errors import InvalidArgument, NotFound
from towline.rpc.status import to_error
from towline.v1 import fleet_pb2, leases_pb2, runs_pb2
from towline_testing.fake_agent import FakeAgent
from towline_testing.lease_world import LeaseWorld, lease_world, policy
from towline_testing.queue import new_id
from towline_testing.waiting import eventually_async

CONNECTED = fleet_pb2.AGENT_STATE_CONNECTED
DRAINING = fleet_pb2.AGENT_STATE_DRAINING
DISCONNECTED = fleet_pb2.AGENT_STATE_DISCONNECTED


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


async def agent_of(world: LeaseWorld, name: str = "agents/one") -> fleet_pb2.Agent:
    return (await world.service.fleet.GetAgent(fleet_pb2.GetAgentRequest(name=name))).agent


async def drain(world: LeaseWorld, name: str = "agents/one", request_id: str = "") -> fleet_pb2.Agent:
    request = fleet_pb2.DrainAgentRequest(request_id=request_id or new_id(), name=name)
    return (await world.service.fleet.DrainAgent(request)).agent


async def test_an_agent_is_told_as_it_introduced_itself(world: LeaseWorld):
    agent = FakeAgent(slots=3, gpus=("GPU-a", "GPU-b"))
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        run = await world.submit(gpus=1)
        await session.next_accepted()
        found = await agent_of(world)
        assert (found.state, found.hostname, found.version) == (CONNECTED, "host-of-one", "test")
        assert (list(found.queues), found.capacity.slots) == (["queues/default"], 3)
        assert [gpu.id for gpu in found.gpus] == ["GPU-a", "GPU-b"]
        assert dict(found.labels) == {"rack": "r1"}
        assert list(found.runs) == [run]
        assert found.HasField("last_seen_time")


async def test_why_an_agent_takes_no_runs_is_shown_until_it_says_otherwise_or_begins_anew(world: LeaseWorld):
    why = "its disk is full"

    async def waits_because() -> str:
        got = await world.service.runs.GetRun(runs_pb2.GetRunRequest(name=run))
        return got.run.state_detail

    async def shown(text: str) -> bool:
        return (await agent_of(world)).withheld == text

    async with FakeAgent().connected(world.service.channel) as session:
        await session.beat(free_slots=0, withheld=why)
        await eventually_async(lambda: shown(why))
        run = await world.submit()
        assert await waits_because() == f"the only agent that could take it takes no runs now: {why}"
        await session.beat(free_slots=0)
        await eventually_async(lambda: shown(""))
        await session.beat(free_slots=0, withheld=why)
        await eventually_async(lambda: shown(why))
    async with FakeAgent().connected(world.service.channel):
        assert await shown("")


async def test_an_agent_that_left_is_disconnected_and_was_seen(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel):
        assert (await agent_of(world)).state == CONNECTED
    found = await agent_of(world)
    assert found.state == DISCONNECTED
    assert found.HasField("last_seen_time")


async def test_a_silent_agent_is_disconnected_and_gets_nothing(database_url: str, tmp_path: Path):
    times = policy(heartbeat_s=0.1, disconnected_s=0.5, lost_s=60)
    async with (
        lease_world(database_url, tmp_path, policy=times) as world,
        FakeAgent().connected(world.service.channel, beating=True) as session,
    ):
        await session.until(lambda: session.renewed)
        session.frozen = True

        async def in_state(state: int) -> bool:
            return (await agent_of(world)).state == state

        await eventually_async(lambda: in_state(DISCONNECTED))
        run = await world.submit()
        assert session.grants == []
        session.frozen = False
        await eventually_async(lambda: in_state(CONNECTED))
        assert (await session.next_grant()).spec.run == run


async def test_agents_are_listed_by_name_in_pages(world: LeaseWorld):
    for name in ("b", "a", "C", "d"):
        async with FakeAgent(f"agents/{name}").connected(world.service.channel):
            pass
    names, token = [], ""
    while True:
        page = await world.service.fleet.ListAgents(
            fleet_pb2.ListAgentsRequest(page_size=3, page_token=token)
        )
        names += [agent.name for agent in page.agents]
        token = page.next_page_token
        if not token:
            break
    assert names == ["agents/C", "agents/a", "agents/b", "agents/d"]


@pytest.mark.parametrize(
    ("name", "kind"), [("agents/nobody", NotFound), ("nobody", InvalidArgument), ("", InvalidArgument)]
)
async def test_an_agent_that_is_not_there(world: LeaseWorld, name: str, kind: type[Exception]):
    for call in (agent_of, drain):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(world, name)
        assert type(to_error(caught.value, peer="queue")) is kind


async def test_a_drain_is_pushed_and_stops_grants_but_not_what_runs(world: LeaseWorld):
    agent = FakeAgent(slots=2)
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        await world.submit()
        grant = await session.next_accepted()
        assert (await drain(world)).state == DRAINING
        await session.until(lambda: session.drained)
        waiting = await world.submit()
        await session.beat()
        await session.beat()
        assert len(session.grants) == 1
        assert await session.finish(grant) == leases_pb2.FINISH_VERDICT_OK
        assert (await world.get(waiting)).state == runs_pb2.RUN_STATE_QUEUED


async def test_a_drain_at_another_replica_comes_with_the_next_heartbeat(world: LeaseWorld):
    async with world.another() as replica, FakeAgent().connected(replica.channel) as session:
        await session.beat()
        await drain(world)
        await session.beat()
        assert session.drained


async def test_a_drain_holds_over_reconnects_until_the_process_starts_anew(world: LeaseWorld):
    agent = FakeAgent()
    async with agent.connected(world.service.channel):
        await drain(world)
    async with agent.connected(world.service.channel) as session:  # it remembers its session
        await session.until(lambda: session.drained)
        assert (await agent_of(world)).state == DRAINING
    agent.session_id = ""
    async with agent.connected(world.service.channel) as session:
        await session.beat()
        assert not session.drained
        await world.submit()
        await session.next_grant()


async def test_draining_is_idempotent(world: LeaseWorld):
    async with FakeAgent().connected(world.service.channel):
        request_id = str(uuid4())
        assert await drain(world, request_id=request_id) == await drain(world, request_id=request_id)
        async with FakeAgent("agents/two").connected(world.service.channel):
            with pytest.raises(grpc.aio.AioRpcError, match="came before with another request"):
                await drain(world, "agents/two", request_id)
