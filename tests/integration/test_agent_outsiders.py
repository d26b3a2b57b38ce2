"""Containers that somebody else ends, and who gets the blame."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from towline.v1 import runs_pb2
from towline_agent.engine.docker import connecting
from towline_agent.engine.port import ContainerId
from towline_testing.agent import IGNORES_SIGTERM, AgentProcess, python_spec
from towline_testing.engine import EngineProxy, containers, docker, remove_containers
from towline_testing.lease_peer import LeasePeer

pytestmark = pytest.mark.docker

SLEEPS = "import time; print('ready', flush=True); time.sleep(600)"
ENDS_WITH_1 = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
print("ready", flush=True)
time.sleep(600)
"""


def stop(container: str) -> None:
    docker("stop", "--time=1", container)


def kill(container: str) -> None:
    docker("kill", container)


@pytest.mark.parametrize(
    ("end", "program", "code"),
    [(stop, SLEEPS, 143), (stop, IGNORES_SIGTERM, 137), (stop, ENDS_WITH_1, 1), (kill, SLEEPS, 137)],
)
async def test_a_stop_from_outside_is_not_the_runs_failure(
    peer: LeasePeer, agent: AgentProcess, end: Callable[[str], None], program: str, code: int
) -> None:
    grant = await peer.grant(python_spec(program))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    (container,) = containers(towline_run=grant.spec.run)
    await asyncio.to_thread(end, container)
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, result
    assert "from outside Towline" in result.failure.message and result.exit_code == code


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
async def test_a_program_that_kills_itself_has_failed(
    peer: LeasePeer, agent: AgentProcess, signal: str
) -> None:
    program = f"import os, signal; os.kill(os.getpid(), signal.{signal})"
    result = await peer.finish_of(await peer.grant(python_spec(program)))
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR, result
    assert signal in result.failure.message


@pytest.mark.parametrize("lease", ["holds", "is over"])
async def test_a_stop_from_outside_while_no_agent_is_there(
    peer: LeasePeer, agent: AgentProcess, lease: str
) -> None:
    grant = await peer.grant(python_spec(SLEEPS))
    await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
    (container,) = containers(towline_run=grant.spec.run)
    agent.kill()
    await asyncio.to_thread(kill, container)
    if lease == "is over":  # as it is where nobody knows; the signal then comes to what has ended
        (agent.folder / "deadlines.json").unlink()
    agent.start()
    result = await peer.finish_of(grant)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, result


async def test_an_engine_that_ends_its_containers_as_it_goes(peer: LeasePeer, tmp_path: Path) -> None:
    engine = EngineProxy(tmp_path / "docker.sock")
    await engine.start()
    settings = {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address, "TOWLINE_AGENT_DOCKER_HOST": engine.url}
    settings["TOWLINE_AGENT_SLOTS"] = "2"  # one stays free for as long as the engine answers
    agent = AgentProcess(tmp_path / "a", settings)
    agent.start()
    try:
        await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
        grant = await peer.grant(python_spec(SLEEPS))
        await peer.until(lambda: peer.output(grant) == b"ready\n", within=30)
        await peer.until(lambda: peer.beats[-1].free_slots == 1)
        (container,) = containers(towline_run=grant.spec.run)
        async with connecting(None) as past_the_proxy:  # faster than a client process
            engine.silent = True  # it has no time left to say so
            await past_the_proxy.kill(ContainerId(container), "SIGKILL")
            await engine.stop()
        await peer.until(lambda: peer.beats[-1].free_slots == 0, within=30)
        await engine.start()
        result = await peer.finish_of(grant)
        assert result.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST, result
        assert result.exit_code == 137
    finally:
        agent.kill()
        remove_containers(towline_agent=f"agents/{agent.name}")
        await engine.stop()
