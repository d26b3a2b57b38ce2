"""Several replicas on one database: agents on any, and what happens at one is heard at the others."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import asyncpg
import grpc
import pytest

from towline.errors import TowlineError
from towline.v1 import fleet_pb2, leases_pb2, runs_pb2, runs_pb2_grpc
from towline_queue.signals import Watch
from towline_queue.storage.notifications import CHANNEL
from towline_testing.fake_agent import FakeAgent
from towline_testing.lease_world import JOB, LeaseWorld, lease_world
from towline_testing.programs import Program
from towline_testing.queue import QueueService, new_id
from towline_testing.waiting import eventually_async

OK = leases_pb2.FINISH_VERDICT_OK
LISTENERS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'towline queue notifications'
  AND state = 'idle' AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%')
"""


@pytest.fixture(autouse=True)
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be found by looking once in a while: what arrives was announced."""
    never = timedelta(hours=1)
    for module in ("dispatcher", "leasing"):
        monkeypatch.setattr(f"towline_queue.{module}.POLL", never)
    monkeypatch.setattr(Watch.wait, "__defaults__", (never,))


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    async with lease_world(database_url, tmp_path) as world:
        yield world


@pytest.fixture
async def other(world: LeaseWorld) -> AsyncIterator[QueueService]:
    """Another replica, which hears of the first one."""
    async with world.another() as replica:
        await listening(world, 2)
        yield replica


async def listening(world: LeaseWorld, replicas: int, *, but: frozenset[int] = frozenset()) -> frozenset[int]:
    """Wait until so many replicas listen, on other connections than these; return their connections."""

    async def all_there() -> frozenset[int] | None:
        there = frozenset(row["pid"] for row in await world.sql(LISTENERS)) - but
        return there if len(there) == replicas else None

    found = await eventually_async(all_there)
    assert found is not None
    return found


async def test_a_run_submitted_at_one_replica_reaches_an_idle_agent_at_another(
    world: LeaseWorld, other: QueueService
):
    async with FakeAgent().connected(other.channel) as session:
        await session.beat()
        run = await world.submit()
        assert (await session.next_grant()).spec.run == run


async def test_a_run_that_waits_again_is_heard_of_elsewhere(world: LeaseWorld, other: QueueService):
    async with (
        FakeAgent("agents/refusing").connected(world.service.channel) as refusing,
        FakeAgent("agents/willing", slots=2).connected(other.channel) as willing,
    ):
        await refusing.beat()
        run = await world.submit()
        grant = await refusing.next_grant()
        await willing.beat()
        # A later run has been handed out there, past the place at which the first one waits again.
        later = await world.submit()
        assert (await willing.next_accepted()).spec.run == later
        await willing.beat()
        refusal = leases_pb2.GrantReply(lease_id=grant.lease_id, epoch=grant.epoch, reason="no disk space")
        await refusing.say(grant_replies=[refusal])
        assert (await willing.next_grant()).spec.run == run


async def test_cancelling_at_one_replica_stops_an_attempt_at_another(world: LeaseWorld, other: QueueService):
    async with FakeAgent().connected(other.channel) as session:
        await session.beat()
        run = await world.submit()
        grant = await session.next_accepted()
        await world.reaches(run, runs_pb2.RUN_STATE_LEASED)
        await world.cancel(run)
        await session.until(lambda: session.cancels)
        assert [cancel.lease_id for cancel in session.cancels] == [grant.lease_id]


async def test_draining_at_one_replica_reaches_an_agent_at_another(world: LeaseWorld, other: QueueService):
    agent = FakeAgent()
    async with agent.connected(other.channel) as session:
        await session.beat()
        await world.service.fleet.DrainAgent(
            fleet_pb2.DrainAgentRequest(request_id=new_id(), name="agents/one")
        )
        await session.until(lambda: session.drained)


async def test_watching_a_run_at_one_replica_shows_what_its_agent_does_at_another(
    world: LeaseWorld, other: QueueService
):
    run = await world.submit()
    watch = world.service.runs.WatchRun(runs_pb2.WatchRunRequest(name=run))
    assert (await watch.read()).run.state == runs_pb2.RUN_STATE_QUEUED
    async with asyncio.timeout(20), FakeAgent().connected(other.channel) as session:
        await session.beat()
        grant = await session.next_accepted()
        seen = (await watch.read()).run.state
        assert await session.finish(grant) == OK
        while seen != runs_pb2.RUN_STATE_SUCCEEDED:
            seen = (await watch.read()).run.state
    watch.cancel()


async def test_a_replica_that_lost_its_connection_hears_again(world: LeaseWorld, other: QueueService):
    lost = await listening(world, 2)
    await world.sql("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", list(lost))
    await listening(world, 2, but=lost)
    async with FakeAgent().connected(other.channel) as session:
        await session.beat()
        run = await world.submit()
        assert (await session.next_grant()).spec.run == run


async def test_many_submissions_are_few_notifications(world: LeaseWorld):
    heard: list[str] = []
    connection = await asyncpg.connect(world.database_url)
    try:
        await connection.add_listener(CHANNEL, lambda *said: heard.append(str(said[-1])))
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(world.service.submit(JOB))
        last = await world.submit(priority=runs_pb2.PRIORITY_HIGH)
        await world.cancel(last)  # is heard after all that was announced before
        async with asyncio.timeout(20):
            while not any(last in payload for payload in heard):
                await connection.fetch("SELECT 1")
        took = asyncio.get_running_loop().time() - began
    finally:
        await connection.close()
    assert any("ready queues/default 0" in payload.splitlines() for payload in heard)
    assert len(heard) <= 2 + took / 0.03  # one per 30 ms, however many there are to announce


@pytest.fixture
def replicas(world: LeaseWorld, tmp_path: Path) -> Iterator[list[Program]]:
    """Two processes on one address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    programs = [
        Program(
            f"replica-{number}",
            [sys.executable, "-m", "towline_queue"],
            {
                "TOWLINE_QUEUE_LISTEN": listen,
                "TOWLINE_QUEUE_SHARE_ADDRESS": "true",
                "TOWLINE_QUEUE_DATABASE_URL": world.database_url,
                "TOWLINE_QUEUE_REGISTRY_ADDRESS": world.registry_address,
                "TOWLINE_QUEUE_ADDRESS_FILE": str(tmp_path / f"address-{number}"),
            },
            tmp_path,
            tmp_path / f"address-{number}",
        )
        for number in range(2)
    ]
    try:
        for program in programs:
            program.start()
        yield programs
    finally:
        for program in programs:
            program.kill()


@asynccontextmanager
async def own_connection(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A connection that no other channel of this process shares, so that it may lead to any replica."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


async def submitted(address: str) -> str:
    """Submit a run, with one request that is repeated until it is acknowledged; return its name."""
    run = runs_pb2.RunSubmission(job=JOB, queue="queues/default")
    request = runs_pb2.SubmitRunRequest(request_id=new_id(), run=run)
    while True:
        async with own_connection(address) as channel:
            try:
                return (await runs_pb2_grpc.RunServiceStub(channel).SubmitRun(request, timeout=10)).run.name
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE


async def work(agent: FakeAgent, address: str) -> None:
    """Take and finish runs until cancelled, and connect again where the connection breaks."""
    while True:
        try:
            async with own_connection(address) as channel, agent.connected(channel) as session:
                while True:
                    for grant in list(agent.held.values()):
                        await session.finish(grant)
                    await session.beat()
                    with suppress(TimeoutError):
                        await session.next_accepted(within=0.2)
        except (TowlineError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            continue


async def test_one_of_two_replicas_on_one_address_dies_and_nothing_is_lost(
    world: LeaseWorld, replicas: list[Program]
):
    """Agents and submitters come to either, by chance; those of the one that dies come to the other."""
    address = replicas[0].environment["TOWLINE_QUEUE_LISTEN"]
    names: list[str] = []

    async def all_ended() -> bool:
        states = "SELECT name FROM queue.runs WHERE state = $1"
        return {row["name"] for row in await world.sql(states, runs_pb2.RUN_STATE_SUCCEEDED)} >= set(names)

    async with asyncio.TaskGroup() as group:
        working = [
            group.create_task(work(FakeAgent(f"agents/a{number}", slots=2), address)) for number in range(8)
        ]
        for number in range(60):
            names.append(await submitted(address))
            if number == 20:
                replicas[0].kill()
        await eventually_async(all_ended, within=30)
        for task in working:
            task.cancel()
    assert len(set(names)) == len(await world.sql("SELECT FROM queue.runs")) == 60
    assert replicas[1].running
