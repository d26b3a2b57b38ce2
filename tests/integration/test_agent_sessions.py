"""An agent's session: services and engines that go away, refusals, status, drain."""

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from towline.errors import Aborted, AlreadyExists, NotFound
from towline.rpc.channel import open_channel
from towline.v1 import agent_pb2, agent_pb2_grpc, runs_pb2
from towline_testing.agent import AgentProcess, python_spec
from towline_testing.engine import (
    EngineProxy,
    containers,
    docker,
    inspect,
    remove_containers,
)
from towline_testing.lease_peer import LeasePeer

pytestmark = pytest.mark.docker

RUNNING = runs_pb2.RUN_STATE_RUNNING
SUCCEEDED = runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED


async def test_a_queue_service_that_restarts(tmp_path: Path) -> None:
    program = "import time\nfor i in range(300): print(f'{i:0199}'); time.sleep(0.01)"
    peer = LeasePeer()
    async with peer.serving():
        agent = AgentProcess(tmp_path / "a", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
        agent.start()
        await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
        grant = await peer.grant(python_spec(program))
        await peer.until(lambda: len(peer.output(grant)) > 5000, within=30)
    try:
        (container,) = containers(towline_run=grant.spec.run)
        await asyncio.to_thread(docker, "wait", container)
        async with peer.serving(peer.address):
            result = await peer.finish_of(grant)
            assert result.log_size == 300 * 200
            assert peer.output(grant) == b"".join(b"%0199d\n" % i for i in range(300))
            assert peer.hellos[1].session_id, "the same process, so the queue service can tell"
            await peer.until(lambda: not containers(towline_run=grant.spec.run))
    finally:
        agent.kill()
        remove_containers(towline_agent=f"agents/{agent.name}")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EngineProxy]:
    proxy = EngineProxy(tmp_path / "docker.sock")
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.mark.parametrize(
    ("code", "cause"),
    [(0, None), (3, runs_pb2.FAILURE_CAUSE_USER_ERROR), (137, runs_pb2.FAILURE_CAUSE_USER_ERROR)],
)
async def test_an_engine_that_stops_and_comes_back(
    peer: LeasePeer, tmp_path: Path, engine: EngineProxy, code: int, cause: int | None
) -> None:
    settings = {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address, "TOWLINE_AGENT_DOCKER_HOST": engine.url}
    agent = AgentProcess(tmp_path / "a", settings)
    agent.start()
    try:
        await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
        program = f"""
import os, time
print("one", flush=True)
while not os.path.exists("/towline/go"): time.sleep(0.05)
print("two", flush=True)
os._exit({code})
"""
        grant = await peer.grant(python_spec(program))
        await peer.until(lambda: peer.output(grant) == b"one\n", within=30)
        await engine.stop()
        await peer.until(lambda: "Docker Engine does not answer" in peer.events[-1].detail)
        assert peer.beats[-1].free_slots == 0
        (container,) = containers(towline_run=grant.spec.run)
        docker("exec", container, "touch", "/towline/go")
        await asyncio.to_thread(docker, "wait", container)
        await engine.start()
        result = await peer.finish_of(grant)
        assert result.exit_code == code
        assert result.failure.cause == (cause or 0)
        assert peer.output(grant) == b"one\ntwo\n"
        await peer.until(lambda: peer.beats[-1].free_slots == 1)
    finally:
        agent.kill()
        remove_containers(towline_agent=f"agents/{agent.name}")


async def test_the_agent_tells_how_it_is(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("import time; time.sleep(600)"))
    await peer.state_of(grant, RUNNING)
    async with open_channel(f"unix:{agent.folder}/s") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        check = await health.Check(health_pb2.HealthCheckRequest(service="towline.v1.AgentService"))
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        status = await stub.GetStatus(agent_pb2.GetStatusRequest())
        assert status.agent == f"agents/{agent.name}"
        assert status.connected and status.engine_ready and not status.draining and not status.detail
        assert status.capacity.slots == 2
        (lease,) = status.leases
        assert lease.lease_id == grant.lease_id and lease.state == RUNNING
        assert lease.container_id == containers(towline_run=grant.spec.run)[0]
        await stub.Drain(agent_pb2.DrainRequest())
        assert (await stub.GetStatus(agent_pb2.GetStatusRequest())).draining
    await peer.until(lambda: peer.drains == 1)
    await peer.cancel(grant, timedelta(0))
    assert await agent.ended() == 0


async def test_a_log_that_is_refused_holds_up_no_other(peer: LeasePeer, agent: AgentProcess) -> None:
    one, two = python_spec("print('one')"), python_spec("print('two')")
    peer.log_refusals[one.run] = NotFound("no such run", reason="RUN_NOT_FOUND")
    grants = [await peer.grant(one), await peer.grant(two)]
    for grant in grants:
        assert (await peer.finish_of(grant)).outcome == SUCCEEDED
    assert peer.output(grants[1]) == b"two\n"


async def test_a_large_log_is_complete_before_the_result(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("for i in range(200_000): print(f'{i:049}')"))
    result = await peer.finish_of(grant, within=60)
    assert result.log_size == 200_000 * 50 == len(peer.output(grant))


async def test_an_agent_that_is_refused_says_why(peer: LeasePeer, tmp_path: Path) -> None:
    peer.refusal = AlreadyExists("agents/x is connected from node-7", reason="AGENT_ID_IN_USE")
    agent = AgentProcess(tmp_path / "b", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
    agent.start()
    assert await agent.ended() == 1
    assert agent.log().rstrip().endswith("agents/x is connected from node-7")
    assert "Traceback" not in agent.log()


async def test_a_superseded_agent_leaves_its_containers_alone(peer: LeasePeer, agent: AgentProcess) -> None:
    grant = await peer.grant(python_spec("import time; time.sleep(600)"))
    await peer.state_of(grant, RUNNING)
    await peer.say(Aborted("another process of this agent has connected", reason="SESSION_SUPERSEDED"))
    assert await agent.ended() == 1
    (container,) = containers(towline_run=grant.spec.run)
    assert inspect(container)["State"]["Running"]


async def test_a_queue_that_is_made_later(peer: LeasePeer, tmp_path: Path) -> None:
    peer.refusal = NotFound("queues/default does not exist", reason="QUEUE_NOT_FOUND")
    agent = AgentProcess(tmp_path / "b", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
    agent.start()
    try:
        await peer.until(lambda: len(peer.hellos) == 2, within=20)
        peer.refusal = None
        await peer.until(lambda: peer.beats, within=20)
        assert agent.log().count("queues/default does not exist") == 1
    finally:
        agent.kill()


async def test_queues_that_are_missing_are_named_once(peer: LeasePeer, agent: AgentProcess) -> None:
    peer.missing_queues = ["queues/typo", "queues/later"]
    for sessions in (2, 3):
        await peer.say(None)
        await peer.until(lambda wanted=sessions: len(peer.hellos) == wanted)
    beats = len(peer.beats)
    await peer.until(lambda: len(peer.beats) > beats)
    assert agent.log().count("not served until created: queues/typo, queues/later;") == 1


async def test_a_second_agent_on_the_same_folder(agent: AgentProcess) -> None:
    second = AgentProcess(agent.folder, agent.settings, name=agent.name)
    second.start()
    assert await second.ended() == 1
    assert agent.process and f"already running as pid {agent.process.pid}" in second.log()
    assert agent.process.poll() is None


async def test_an_agent_without_an_engine_waits(peer: LeasePeer, tmp_path: Path) -> None:
    settings = {
        "TOWLINE_AGENT_QUEUE_ADDRESS": peer.address,
        "TOWLINE_AGENT_DOCKER_HOST": f"unix://{tmp_path}/docker.sock",
    }
    agent = AgentProcess(tmp_path / "b", settings)
    agent.start()
    try:
        await peer.until(lambda: len(peer.beats) > 2)
        assert not any(beat.free_slots for beat in peer.beats)
        assert "no runs are taken until it does" in agent.log()
        grant = await peer.grant(python_spec(""))
        await peer.until(lambda: peer.replies)
        assert not peer.replies[0].accepted and "Docker Engine" in peer.replies[0].reason, grant
        assert agent.process
        agent.process.send_signal(signal.SIGINT)
        assert await agent.ended() == 0
    finally:
        agent.kill()
