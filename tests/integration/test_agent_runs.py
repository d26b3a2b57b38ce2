"""Runs on a real engine, by a real agent process, for a queue service that the tests play."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from towline.v1 import runs_pb2
from towline_testing.agent import AgentProcess, image_spec, launch_spec, python_spec
from towline_testing.engine import base_image, containers, docker, image_id, inspect, volumes
from towline_testing.lease_peer import LeasePeer
from towline.v1 import jobs_pb2

pytestmark = pytest.mark.docker

RUNNING = runs_pb2.RUN_STATE_RUNNING
SUCCEEDED = runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
FAILED = runs_pb2.ATTEMPT_OUTCOME_FAILED
CANCELLED = runs_pb2.ATTEMPT_OUTCOME_CANCELLED


@pytest.fixture
async def peer() -> AsyncIterator[LeasePeer]:
    async with LeasePeer().serving() as serving:
        yield serving


@pytest.fixture
async def agent(peer: LeasePeer, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    made = AgentProcess(tmp_path / "a", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
    made.settings["TOWLINE_AGENT_SLOTS"] = "2"
    made.start()
    await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
    yield made
    if made.process and made.process.poll() is None:
        made.kill()
    for container in containers(towline_agent=f"agents/{made.name}"):
        docker("rm", "--force", "--volumes", container)


async def test_a_run_succeeds_and_leaves_nothing(peer: LeasePeer, agent: AgentProcess) -> None:
    before = volumes()
    grant = await peer.grant(python_spec("print('hello')"))
    result = await peer.finish_of(grant)
    assert result.outcome == SUCCEEDED, result
    assert result.exit_code == 0
    assert peer.output(grant) == b"hello\n"
    assert result.log_size == 6
    assert [event.state for event in peer.events] == sorted(event.state for event in peer.events)
    running = await peer.state_of(grant, RUNNING)
    assert running.image_id == image_id(base_image())
    assert running.image_outcome == runs_pb2.IMAGE_OUTCOME_REUSED
    assert peer.replies[0].accepted
    await peer.until(lambda: not containers(towline_run=grant.spec.run))
    assert volumes() <= before
    await peer.until(lambda: peer.beats[-1].free_slots == 2)
    assert not list((agent.folder / "attempts").iterdir())
