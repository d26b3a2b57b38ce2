"""An agent process, and the queue service that a test plays for it; a registry for the tests of a file."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from towline.client import Client, Endpoints
from towline_testing.agent import AgentProcess
from towline_testing.builds import Builds, building
from towline_testing.engine import remove_containers
from towline_testing.lease_peer import LeasePeer
from towline_testing.postgres import PostgresServer
from towline_testing.registries import shared_registry


@pytest.fixture(scope="module")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the file's registry keeps its bytes."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def endpoints(embedded_postgres: PostgresServer, registry_folder: Path) -> Iterator[Endpoints]:
    """A registry for the tests of one file; nothing answers at the queue's address."""
    with shared_registry(embedded_postgres, registry_folder) as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def client(endpoints: Endpoints) -> Iterator[Client]:
    with Client(endpoints) as client:
        yield client


@pytest.fixture
async def builds(embedded_postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Builds]:
    """A builder on the machine's engine, with a registry of its own."""
    async with building(embedded_postgres, tmp_path) as made:
        yield made


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
