"""Images of a fleet: built by one agent, pushed to a real container registry, pulled by the others."""

import asyncio
import io
import re
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from towline.names import AgentName
from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import failed
from towline_agent.credentials import Credentials
from towline_agent.engine.docker import DockerEngine, connecting
from towline_agent.image_records import ImageRecords
from towline_agent.sharing import Got, SharedImages, Wanted
from towline_agent.telling import Tell
from towline_testing.container_registry import ContainerRegistry, container_registry
from towline_testing.engine import docker, image_id
from towline_testing.postgres import PostgresServer, running_postgres
from towline_testing.registry import Registry, digest_of, registry_service, registry_settings
from towline_testing.waiting import eventually_async

pytestmark = pytest.mark.docker

_SMALL = "towline/test-small:1"
BUILT, PULLED = runs_pb2.IMAGE_OUTCOME_BUILT, runs_pb2.IMAGE_OUTCOME_PULLED


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with running_postgres("18") as server:
        yield server


@pytest.fixture
async def registry(database: PostgresServer, tmp_path: Path) -> AsyncIterator[Registry]:
    name = f"sharing_{uuid4().hex}"
    database.psql(f"CREATE DATABASE {name}")
    async with registry_service(registry_settings(database.url(name), tmp_path)) as service:
        yield service


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ContainerRegistry]:
    with container_registry(tmp_path / "images") as served:
        yield served


def _small_image() -> str:
    """Return an image of a few bytes: what is in one does not matter here, and pushing takes time."""
    if not image_id(_SMALL):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("file"))
        subprocess.run(["docker", "import", "-", _SMALL], input=buffer.getvalue(), check=True)
    return _SMALL


async def pushed(images: ContainerRegistry, count: int) -> list[str]:
    """Wait until so many images are in a container registry; gives their digests."""

    async def there() -> bool:
        return len(images.manifests()) == count

    await eventually_async(there)
    return images.manifests()


class Node:
    """An agent of the fleet; all share one engine here, so each has tags of its own."""

    def __init__(
        self, engine: DockerEngine, registry: Registry, repository: str, background: asyncio.TaskGroup
    ) -> None:
        self.engine = engine
        self.name = uuid4().hex
        agent = AgentName(f"agents/{self.name}")
        self.shared = SharedImages(
            engine, ImageRecords(registry.channel, "the registry", repository, agent), background
        )
        self.tag = f"towline/test-sharing:{self.name}"
        self.told: list[str] = []
        self.tell = Tell(self.told.append)
        self.builds = 0
        self.building = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.result: leases_pb2.AttemptResult | None = None
        """What a build comes to; None: an image."""

    async def get(self, content: str) -> Got:
        return await self.shared.get(Wanted(digest_of(content.encode()), self.tag, self._build), self.tell)

    async def _build(self, tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
        self.builds += 1
        tell("installing")
        self.building.set()
        await self.go_on.wait()
        if self.result is not None:
            return self.result
        container = await self.engine.create(
            f"towline-test-{uuid4().hex}", {"Image": _small_image(), "Cmd": ["/file"]}
        )
        try:
            await self.engine.commit(container, self.tag, {"Labels": {"content": uuid4().hex}})
        finally:
            await self.engine.remove(container)
        facts = await self.engine.image(self.tag)
        assert facts is not None
        return facts


class Fleet:
    """Nodes, and the removal of what they have made."""

    def __init__(self, engine: DockerEngine, registry: Registry, background: asyncio.TaskGroup) -> None:
        self._engine, self._registry, self._background = engine, registry, background
        self.nodes: list[Node] = []

    def node(self, repository: str) -> Node:
        self.nodes.append(Node(self._engine, self._registry, repository, self._background))
        return self.nodes[-1]

    def forget_images(self) -> None:
        """Remove all images of the fleet from the engine, as on a node that never had them."""
        for image in {image for node in self.nodes if (image := image_id(node.tag))}:
            docker("rmi", "--force", image)


@pytest.fixture
async def fleet(registry: Registry) -> AsyncIterator[Fleet]:
    async with connecting(None) as engine, asyncio.TaskGroup() as background:
        made = Fleet(engine, registry, background)
        yield made
        made.forget_images()


async def test_of_four_nodes_that_ask_at_once_one_builds_and_the_others_pull(
    fleet: Fleet, images: ContainerRegistry
) -> None:
    nodes = [fleet.node(images.repository()) for _ in range(4)]
    content = uuid4().hex
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(node.get(content)) for node in nodes]
    assert sum(node.builds for node in nodes) == 1
    got = [task.result() for task in asked]
    assert all(isinstance(one, tuple) for one in got)
    assert sorted(outcome for _, outcome in got) == sorted([BUILT, PULLED, PULLED, PULLED])
    assert len({image_id(node.tag) for node in nodes}) == 1
    assert len(images.manifests()) == 1
    assert not docker("images", "--quiet", f"{images.repository()}:*"), "the tag of the push is gone again"
    (builder,) = [node for node in nodes if node.builds]
    for node in nodes:
        if node is not builder:
            image = node.tell.image()
            assert image is not None
            waited, *_, pull = image.steps  # on one engine, who pulls may find the name gone and pull again
            assert waited.name == "wait for another agent's build"
            assert re.fullmatch(f"pull {images.repository()}@sha256:[0-9a-f]{{12}}", pull.name)
            assert pull.builder == f"agents/{builder.name}"
            assert any("pulling" in line for line in node.told)


async def test_who_waits_is_told_how_the_build_goes_and_another_takes_over_one_that_is_cancelled(
    fleet: Fleet, images: ContainerRegistry
) -> None:
    first, second = fleet.node(images.repository()), fleet.node(images.repository())
    first.go_on.clear()
    content = uuid4().hex
    async with asyncio.TaskGroup() as group:
        building = group.create_task(first.get(content))
        await first.building.wait()
        waiting = group.create_task(second.get(content))

        async def told() -> bool:
            return bool(second.told)

        await eventually_async(told)
        assert second.told == [f"{first.name} builds the same image"]

        async def told_more() -> bool:
            return second.told[-1] == f"{first.name} builds the same image: installing"

        await eventually_async(told_more)
        building.cancel()
    facts, outcome = waiting.result()
    assert (outcome, second.builds) == (BUILT, 1)
    assert facts.id == image_id(second.tag)


async def test_a_build_that_fails_fails_for_those_who_waited_and_a_lost_node_does_not(
    fleet: Fleet, images: ContainerRegistry
) -> None:
    first, second, third = (fleet.node(images.repository()) for _ in range(3))
    first.go_on.clear()
    first.result = failed(runs_pb2.FAILURE_CAUSE_IMAGE_BUILD, "No such package.", "the tail")
    content = uuid4().hex
    async with asyncio.TaskGroup() as group:
        building = group.create_task(first.get(content))
        await first.building.wait()
        waiting = group.create_task(second.get(content))

        async def told() -> bool:
            return bool(second.told)

        await eventually_async(told)
        first.go_on.set()
    assert waiting.result() == building.result() == first.result
    third.result = failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, "The engine broke.")
    assert await third.get(content) == third.result
    assert isinstance(await second.get(content), tuple), "what is no fault of the content is no end of it"


async def test_an_image_that_is_gone_from_its_registry_is_built_and_pushed_again(
    fleet: Fleet, images: ContainerRegistry
) -> None:
    first, second = fleet.node(images.repository()), fleet.node(images.repository())
    content = uuid4().hex
    await first.get(content)
    (lost,) = await pushed(images, 1)
    fleet.forget_images()
    images.lose(lost)
    _, outcome = await second.get(content)
    assert outcome == BUILT
    assert await pushed(images, 1) != [lost]
    fleet.forget_images()
    _, outcome = await first.get(content)
    assert outcome == PULLED


async def test_without_its_container_registry_each_node_builds_and_no_run_fails(
    fleet: Fleet, images: ContainerRegistry
) -> None:
    images.stop()
    first, second = fleet.node(images.repository()), fleet.node(images.repository())
    content = uuid4().hex
    assert [(await node.get(content))[1] for node in (first, second)] == [BUILT, BUILT]


@pytest.mark.parametrize("tls", [False, True])
async def test_a_registry_with_a_login_gets_it_from_the_file_of_dockers_client(
    registry: Registry, tmp_path: Path, *, tls: bool
) -> None:
    with container_registry(tmp_path / "closed", tls=tls, auth="htpasswd") as images:
        async with (
            connecting(None, Credentials(images.login_file())) as engine,
            asyncio.TaskGroup() as background,
        ):
            fleet = Fleet(engine, registry, background)
            first, second = fleet.node(images.repository()), fleet.node(images.repository())
            content = uuid4().hex
            await first.get(content)
            await pushed(images, 1)
            fleet.forget_images()
            assert (await second.get(content))[1] == PULLED
            fleet.forget_images()
        async with (
            connecting(None, Credentials(tmp_path / "none.json")) as engine,
            asyncio.TaskGroup() as background,
        ):
            stranger = Fleet(engine, registry, background).node(images.repository())
            assert (await stranger.get(content))[1] == BUILT
            assert any("cannot be pulled" in line for line in stranger.told)
            docker("rmi", "--force", stranger.tag)
