"""Images that a node has before a run wants them, on a real engine, from a real registry over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.base_images import BaseImages
from towline_agent.builder import BuildLog, Ready
from towline_agent.engine.docker import DockerEngine, connecting
from towline_agent.engine.health import EngineHealth
from towline_agent.telling import Tell
from towline_agent.warming import RunsFirst, Warming
from towline_testing.agent import AgentProcess, image_spec
from towline_testing.builds import Log
from towline_testing.engine import base_image, docker, image_id
from towline_testing.image_registry import image_registry
from towline_testing.lease_peer import LeasePeer
from towline_testing.waiting import eventually_async

pytestmark = pytest.mark.docker


@pytest.fixture
async def engine() -> AsyncIterator[DockerEngine]:
    async with connecting(None) as engine:
        yield engine


async def test_what_is_to_be_ready_is_pulled_when_the_agent_starts(peer: LeasePeer, tmp_path: Path) -> None:
    base_image()
    with image_registry(uuid4().bytes) as registry:
        agent = AgentProcess(tmp_path / "a", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
        agent.settings["TOWLINE_AGENT_READY_PYTHONS"] = "3.11"
        agent.settings["TOWLINE_AGENT_READY_IMAGES"] = f"127.0.0.1:1/absent:1,{registry.reference}"
        agent.start()
        try:
            await peer.until(lambda: f"{registry.reference} is ready: pulled in" in agent.log(), within=30)
        finally:
            agent.kill()
        assert "the base image for Python 3.11 is ready: it was here" in agent.log()
        assert "127.0.0.1:1/absent:1 is not ready: Image 127.0.0.1:1/absent:1 cannot be" in agent.log()
        assert image_id(registry.reference) == registry.image_id
        docker("rmi", registry.reference)


class _Preparing:
    """Gets the image of a run for as long as a test wants."""

    def __init__(self) -> None:
        self.go_on = asyncio.Semaphore(0)

    async def ensure(
        self, _spec: runs_pb2.LaunchSpec, _log: BuildLog, _tell: Tell
    ) -> Ready | leases_pb2.AttemptResult:
        await self.go_on.acquire()
        return leases_pb2.AttemptResult()


async def test_no_pull_begins_while_a_run_waits_for_its_image(engine: DockerEngine) -> None:
    preparing = _Preparing()
    runs = RunsFirst(preparing)
    health = EngineHealth(engine, lambda: None)
    with image_registry(uuid4().bytes) as registry:
        warming = Warming(BaseImages(engine, ()), (), (registry.reference,), runs.idle, str)
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(runs.ensure(image_spec(), Log(), Tell(lambda _: None)))
            endless = [group.create_task(health.run()), group.create_task(warming.run(health))]
            for _ in range(2):
                await health.wait_ready()
                for _ in range(50):  # enough for it to have pulled an image that small
                    assert await engine.image(registry.reference) is None
                preparing.go_on.release()
            await eventually_async(lambda: engine.image(registry.reference))
            await eventually_async(lambda: asyncio.sleep(0, list(warming.ready) == [registry.image_id]))
            for task in endless:
                task.cancel()
        docker("rmi", registry.reference)


async def test_nothing_is_pulled_onto_a_full_disk(
    engine: DockerEngine, caplog: pytest.LogCaptureFixture
) -> None:
    health = EngineHealth(engine, lambda: None)
    with image_registry(uuid4().bytes) as registry:
        wanted, idle = (registry.reference,), RunsFirst(_Preparing()).idle
        warming = Warming(BaseImages(engine, ()), (), wanted, idle, lambda: "its disk is full")
        async with asyncio.TaskGroup() as group:
            endless = [group.create_task(health.run()), group.create_task(warming.run(health))]
            said = f"{registry.reference} is not looked for: its disk is full"
            await eventually_async(lambda: asyncio.sleep(0, said in caplog.text))
            for task in endless:
                task.cancel()
        assert not await engine.image(registry.reference) and not warming.ready
