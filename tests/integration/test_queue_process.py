"""The queue service as an operator runs it: started, stopped, and without what it needs."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from towline.errors import Aborted
from towline.rpc.channel import open_channel
from towline.v1 import leases_pb2, queues_pb2, queues_pb2_grpc, runs_pb2, runs_pb2_grpc
from towline_testing.errors import refusal
from towline_testing.fake_agent import FakeAgent
from towline_testing.lease_world import lease_world
from towline_testing.postgres import VERSIONS, PostgresServer, running_postgres
from towline_testing.queue import new_id
from towline_testing.waiting import eventually, eventually_async

# What comes before the last line: the log, which has the time first, and gRPC's own words.
LOG_LINE = re.compile(r"[0-9:]{8} INFO |[EIW][0-9]{4} ")
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")


def spawn(**settings: str) -> subprocess.Popen[str]:
    """Start `python -m towline_queue` with TOWLINE_QUEUE_… settings."""
    return subprocess.Popen(
        [sys.executable, "-m", "towline_queue"],
        env=os.environ | {f"TOWLINE_QUEUE_{name}": value for name, value in settings.items()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def last_words(process: subprocess.Popen[str]) -> list[str]:
    """Wait until a service has given up; return its lines on standard error."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    return [line for line in errors.splitlines() if not LOG_LINE.match(line)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "TOWLINE_QUEUE_DATABASE_URL: is not set"),
        ({"DATABASE_URL": "x", "MAX_SUBMITS_IN_FLIGHT": "0"}, "TOWLINE_QUEUE_MAX_SUBMITS_IN_FLIGHT"),
        ({"DATABASE_URL": "x", "LOG_LEVEL": "LOUD"}, "TOWLINE_QUEUE_LOG_LEVEL"),
        ({"DATABASE_URL": "no url"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://127.0.0.1:9/none"}, "PostgreSQL (127.0.0.1) cannot be reached"),
        ({"DATABASE_URL": "postgresql://x@/none?host=/nowhere"}, "PostgreSQL (/nowhere) cannot be reached"),
    ],
)
def test_what_prevents_a_start_is_one_line(settings: dict[str, str], said: str) -> None:
    lines = last_words(spawn(**({"LISTEN": "127.0.0.1:0"} | settings)))
    assert len(lines) == 1, lines
    assert said in lines[0]


@pytest.mark.one_postgres
def test_a_port_in_use_is_said_so(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        lines = last_words(spawn(LISTEN=listen, DATABASE_URL=database_url))
    assert len(lines) == 1, lines
    assert f"cannot listen on {listen}" in lines[0]


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running service, and its address."""
    file = tmp_path / "address"
    process = spawn(
        LISTEN="127.0.0.1:0",
        DATABASE_URL=database_url,
        ADDRESS_FILE=str(file),
        REGISTRY_ADDRESS="127.0.0.1:1",
        UPKEEP_EVERY_S="0.05",
    )
    try:
        eventually(lambda: file.exists() or process.poll() is not None, within=30)
        assert process.poll() is None, process.communicate()[1]
        yield process, file.read_text()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.one_postgres
async def test_it_is_healthy_tells_its_services_and_stops_in_order(
    service: tuple[subprocess.Popen[str], str],
) -> None:
    process, address = service
    async with open_channel(address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="towline.v1.RunService")
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
        found = {item.name async for answer in call for item in answer.list_services_response.service}
        ours = ("QueueService", "RunService", "LogService", "LeaseService", "FleetService")
        assert {f"towline.v1.{name}" for name in ours} <= found
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.fixture(params=VERSIONS)
def own_postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    with running_postgres(request.param) as server:
        yield server


@pytest.fixture
async def channel(own_postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a service whose database the test may stop."""
    file = tmp_path / "address"
    process = spawn(LISTEN="127.0.0.1:0", DATABASE_URL=own_postgres.url(), ADDRESS_FILE=str(file))
    try:
        eventually(lambda: file.exists() or process.poll() is not None, within=30)
        async with open_channel(file.read_text()) as channel:
            yield channel
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


async def test_it_outlives_its_database(own_postgres: PostgresServer, channel: grpc.aio.Channel) -> None:
    queues, runs = queues_pb2_grpc.QueueServiceStub(channel), runs_pb2_grpc.RunServiceStub(channel)
    create = queues_pb2.CreateQueueRequest(request_id=new_id(), name="queues/a")
    made = await queues.CreateQueue(create)
    for mode in ("fast", "immediate"):
        own_postgres.stop(mode)
        for call in (
            lambda: queues.GetQueue(queues_pb2.GetQueueRequest(name="queues/a")),
            lambda: queues.CreateQueue(create),
            lambda: runs.ListRuns(runs_pb2.ListRunsRequest()),
            lambda: anext(aiter(runs.WatchRun(runs_pb2.WatchRunRequest(name="runs/a")))),
        ):
            assert await refusal(call()) == UNAVAILABLE
        own_postgres.start()

        async def back() -> bool:
            try:
                return await queues.CreateQueue(create) == made
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                return False

        assert await eventually_async(back, within=20)


async def test_a_frozen_leader_is_followed_and_does_no_harm_when_it_thaws(
    service: tuple[subprocess.Popen[str], str], database_url: str, tmp_path: Path
) -> None:
    frozen, address = service
    async with lease_world(database_url, tmp_path / "world") as world, open_channel(address) as channel:

        async def leaders() -> list[tuple[str, int]]:
            rows = await world.sql("SELECT holder, term FROM queue.leaders WHERE name = 'upkeep'")
            return [(row["holder"], row["term"]) for row in rows]

        ((holder, term),) = await leaders()
        agent = FakeAgent()
        async with agent.connected(channel) as session:
            await session.beat()
            await world.submit()
            grant = await session.next_accepted()
            await session.beat()
            frozen.send_signal(signal.SIGSTOP)
            due = Timestamp()
            due.FromDatetime(datetime.now(UTC) + timedelta(seconds=0.2))
            run = await world.submit(not_before=due)
            await world.reaches(run, runs_pb2.RUN_STATE_QUEUED)
            ((successor, next_term),) = await leaders()
            assert (successor != holder, next_term) == (True, term + 1)
            # Meanwhile its agent goes elsewhere, and keeps what it holds.
            async with agent.connected(world.service.channel) as elsewhere:
                assert elsewhere.verdicts == {grant.lease_id: leases_pb2.VERDICT_ACTION_ADOPT}
                frozen.send_signal(signal.SIGCONT)
                await session.say(heartbeat=session.heartbeat(free_slots=1))
                await session.until(lambda: session.ended)
                assert isinstance(session.error, Aborted)  # superseded
                assert await elsewhere.finish(grant) == leases_pb2.FINISH_VERDICT_OK
        async with FakeAgent("agents/two").connected(channel) as other:
            await other.beat()
            assert (await other.next_accepted()).spec.run == run
        assert await leaders() == [(successor, next_term)]
