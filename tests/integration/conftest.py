"""An agent process and the queue service that a test plays for it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towline_testing.agent import AgentProcess
from towline_testing.engine import (
    remove_containers,
)
from towline_testing.lease_peer import LeasePeer


@pytest.fixture
async def peer() -> AsyncIterator[LeasePeer]:
    async with LeasePeer().serving() as serving:
        yield serving


@pytest.fixture
async def agent(peer: LeasePeer, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    made = AgentProcess(tmp_path / "a", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})
    made.settings["TOWLINE_AGENT_SLOTS"] = "2"
    made.start()
    try:
        await peer.until(lambda: any(beat.free_slots for beat in peer.beats))
        yield made
    finally:
        if made.process and made.process.poll() is None:
            made.kill()
        remove_containers(towline_agent=f"agents/{made.name}")
