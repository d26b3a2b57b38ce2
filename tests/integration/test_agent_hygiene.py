"""Images within a budget, disks that do not fill up, what killed pushes leave: on a real engine and disk."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import pytest

from towline_agent.core.containers import ImageFacts
from towline_agent.core.ownership import LABEL_MADE_BY
from towline_agent.engine.docker import DockerEngine, connecting
from towline_agent.hygiene import Caches, Disks, Hygiene
from towline_agent.image_cache import ImageCache, ImageSettings
from towline_agent.used_images import UsedImages, noting
from towline_testing.agent import AgentProcess, image_spec
from towline_testing.container_registry import ContainerRegistry, container_registry
from towline_testing.lease_peer import LeasePeer
from towline_testing.small_engine import SmallEngine, small_engine

if TYPE_CHECKING:
    from towline_agent.engine.port import Engine

pytestmark = pytest.mark.docker

MIB = 2**20
KEY = "ab" * 32


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallEngine]:
    with small_engine(tmp_path_factory.mktemp("engine"), 160) as engine:
        yield engine


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ContainerRegistry]:
    with container_registry(tmp_path / "images") as served:
        yield served


@dataclass
class Node:
    """An agent's share of the engine."""

    machine: SmallEngine
    engine: DockerEngine
    folder: Path
    instance: str = field(default_factory=lambda: uuid4().hex)
    repository: str = ""
    held: set[str] = field(default_factory=set)
    pushing: Collection[str] = ()

    def __post_init__(self) -> None:
        self.used = UsedImages(self.folder)

    def made(self, name: str, mebibytes: int) -> str:
        return self.machine.image(name, mebibytes, {LABEL_MADE_BY: self.instance})

    def cache(self, most: int | None) -> ImageCache:
        settings = ImageSettings(self.instance, most, self.repository)
        return ImageCache(
            self.engine.store(), self.used, settings, held=lambda: self.held, pushing=lambda: self.pushing
        )

    async def use(self, *images: str) -> None:
        """Use images, the first one first."""
        for image in images:
            assert await noting(self.engine, self.used).image(image)


@pytest.fixture
async def node(machine: SmallEngine, tmp_path: Path) -> AsyncIterator[Node]:
    async with connecting(machine.url) as engine:
        yield Node(machine, engine, tmp_path / "used")
    if containers := machine.docker("ps", "--all", "--quiet").split():
        machine.docker("rm", "--force", *containers)
    # By their names: one that others are made of cannot go by its id before them, and goes with the last.
    if named := [name for name in machine.names() if not name.endswith("<none>")]:
        machine.docker("rmi", "--force", *named)
    machine.docker("image", "prune", "--force")


async def test_images_beyond_the_budget_go_by_their_last_use_and_others_stay(node: Node) -> None:
    node.machine.image("somebody/image:1", 3)
    node.machine.image("towline/job:others", 3, {LABEL_MADE_BY: "another-data-folder"})
    node.made("towline/env:one", 3)
    for name in ("a", "b", "c"):
        node.machine.onto("towline/env:one", f"towline/job:{name}", 1)
    node.made("towline/env:two", 3)
    node.made("towline/job:named", 3)
    node.machine.docker("tag", "towline/job:named", "mine:latest")
    await node.cache(None).tidy()
    assert len(node.used.names) == 6  # what was made before its agent kept records is on record
    await node.use(*(f"towline/{name}" for name in ("job:b", "env:two", "job:a", "job:c", "job:named")))
    kept = node.machine.names()
    # 3 of the first environment and 1 for each that was made from it, 3 and 3.
    await node.cache(12 * MIB + MIB // 2).tidy()
    assert node.machine.names() == kept
    await node.cache(11 * MIB).tidy()
    assert kept - node.machine.names() == {"towline/job:b"}
    await node.cache(8 * MIB).tidy()
    assert kept - node.machine.names() == {"towline/job:b", "towline/env:two"}
    await node.cache(0).tidy()
    stays = {"somebody/image:1", "towline/job:others", "towline/job:named", "mine:latest"}
    assert node.machine.names() == stays


async def test_what_is_in_use_stays(node: Node) -> None:
    node.made("towline/env:one", 1)
    held = node.machine.onto("towline/env:one", "towline/job:held", 1)
    node.made("towline/env:three", 1)
    node.machine.onto("towline/env:three", "towline/job:prepared", 1)
    node.machine.onto("towline/env:one", "towline/job:contained", 1)
    node.made("towline/job:free", 1)
    node.machine.docker("create", "towline/job:contained", "nothing")
    node.held.add(held)
    await node.use("towline/job:free")
    with node.used.preparing():
        await node.use("towline/job:prepared")
        await node.cache(0).tidy()
        kept = {"towline/env:one", "towline/job:held", "towline/job:contained"}
        # Nor what they were made from: the engine would take its name only, and keep it.
        assert node.machine.names() == kept | {"towline/env:three", "towline/job:prepared"}
    await node.cache(0).tidy()
    assert node.machine.names() == kept


async def test_the_last_use_is_known_over_restarts_and_an_image_that_is_gone_is_forgotten(node: Node) -> None:
    for name in ("a", "b", "c"):
        node.made(f"towline/job:{name}", 1)
    await node.cache(None).tidy()
    await node.use("towline/job:b", "towline/job:c", "towline/job:a")
    node.machine.docker("rmi", "towline/job:c")
    node.used = UsedImages(node.folder)
    await node.cache(MIB + MIB // 2).tidy()
    assert node.machine.names() == {"towline/job:a"}
    assert len(list(node.folder.glob("*.json"))) == len(node.used.names) == 1


async def test_whoever_looks_for_an_image_that_is_being_removed_finds_none(node: Node) -> None:
    image = node.made("towline/job:a", 1)
    async with asyncio.TaskGroup() as group:
        with node.used.removing(image):
            looking = group.create_task(noting(node.engine, node.used).image(image))
            # It has the engine's answer by now, as this is asked for later.
            assert await node.engine.image(image)
            assert await node.engine.store().images()
            node.machine.docker("rmi", "towline/job:a")
        assert await looking is None


async def test_an_answer_that_is_read_after_its_image_has_gone_finds_none(node: Node) -> None:
    image = node.made("towline/job:a", 1)

    class LateEngine:
        async def image(self, reference: str) -> ImageFacts | None:
            found = await node.engine.image(reference)
            if found is not None:
                with node.used.removing(image):
                    node.machine.docker("rmi", "towline/job:a")
            return found

    assert await noting(cast("Engine", LateEngine()), node.used).image(image) is None


async def test_what_has_got_another_name_since_it_was_listed_stays_and_so_does_who_got_its_name(
    node: Node,
) -> None:
    nameless = node.made("towline/job:a", 1)
    node.made("towline/job:a", 1)
    node.made("towline/job:b", 1)
    going = await node.cache(None).leaving()
    assert len(going) == 3
    node.machine.docker("tag", nameless, "mine:latest")
    node.machine.image("towline/job:a", 1)
    assert [await one.go() for one in going].count(True) == 1
    assert node.machine.names() - {"<none>:<none>"} == {"mine:latest", "towline/job:a"}


async def test_what_was_pulled_goes_and_what_was_there_before_stays(
    node: Node, images: ContainerRegistry
) -> None:
    engine, repository = noting(node.engine, node.used), images.repository()
    for name in ("pulled", "there"):
        images.push("towline/images", name, uuid4().bytes)
    images.push("towline/other", "latest", uuid4().bytes)
    node.machine.docker("pull", f"{repository}:there")
    for reference in (f"{repository}:pulled", f"{repository}:there", images.repository("towline/other")):
        await engine.pull(reference, lambda _: None)
    node.used = UsedImages(node.folder)
    await node.cache(0).tidy()
    assert node.machine.names() == {f"{repository}:there"}


async def test_what_was_pulled_goes_once_its_tag_has_moved_on(node: Node, images: ContainerRegistry) -> None:
    engine, reference = noting(node.engine, node.used), f"{images.repository()}:moves"
    for _ in range(2):
        images.push("towline/images", "moves", uuid4().bytes)
        await engine.pull(reference, lambda _: None)
    assert len(await node.engine.store().images()) == 2
    await node.cache(0).tidy()
    assert await node.engine.store().images() == []


async def test_what_was_just_pulled_or_made_for_a_run_stays_until_that_has_found_it(
    node: Node, images: ContainerRegistry
) -> None:
    engine, reference = noting(node.engine, node.used), f"{images.repository()}:pulled"
    images.push("towline/images", "pulled", uuid4().bytes)
    with node.used.preparing():
        await engine.pull(reference, lambda _: None)
        container = await node.engine.create("towline-test", {"Image": reference, "Cmd": ["nothing"]})
        await engine.commit(container, "towline/job:made", {"Labels": {LABEL_MADE_BY: node.instance}})
        await node.engine.remove(container)
        await node.cache(0).tidy()
        assert node.machine.names() == {reference, "towline/job:made"}
    await node.cache(0).tidy()
    assert node.machine.names() == set()


async def test_the_name_that_a_killed_push_left_goes_and_that_of_one_which_goes_on_stays(node: Node) -> None:
    node.repository = "images.example:5000/towline"
    names = {key: f"{node.repository}:{key}" for key in (KEY, "cd" * 32, "v1")}
    for number, name in enumerate(names.values()):
        node.made(f"towline/job:{number}", 0)
        node.machine.docker("tag", f"towline/job:{number}", name)
    node.pushing = {names["cd" * 32]}
    await node.cache(None).tidy()
    left = {*names.values(), "towline/job:0", "towline/job:1", "towline/job:2"} - {names[KEY]}
    assert node.machine.names() == left


async def test_a_disk_that_fills_up_is_cleaned_and_then_no_runs_are_taken(node: Node, tmp_path: Path) -> None:
    said: list[str] = []
    emptied: list[float] = []
    cache = node.cache(None)

    async def empty() -> None:
        emptied.append(time.monotonic())

    disks = Disks(tmp_path, node.machine.url, node.engine.store().roots)
    caches = Caches((cache.tidy,), (cache.leaving,), empty)
    hygiene = Hygiene(disks, 40 * MIB, caches, said.append)
    looked = {disk.path: disk for disk in await disks.look()}
    data = str(node.machine.disk / "data")
    assert set(looked) == {data, str(tmp_path)}
    assert [disk.path for disk in looked.values() if disk.clears] == [data]
    assert looked[data].total < 160 * MIB < looked[str(tmp_path)].total

    for name in ("a", "b"):
        node.made(f"towline/job:{name}", 8)
    node.machine.image("somebody/image:1", 8)
    await cache.tidy()
    await node.use("towline/job:b", "towline/job:a")
    node.machine.fill(leaving=35)
    await hygiene.look()
    assert node.machine.names() == {"towline/job:a", "somebody/image:1"}
    assert (said, emptied) == ([], [])

    node.machine.fill(leaving=8)
    await hygiene.look()
    assert node.machine.names() == {"somebody/image:1"}
    assert len(emptied) == 1
    (why,) = said
    assert why.startswith("only ")
    assert why.endswith(f" MiB to be kept free are left where its Docker Engine keeps its data ({data})")
    await hygiene.look()
    assert said == [why]
    node.machine.empty()
    await hygiene.look()
    assert said == [why, ""]


async def test_the_disk_of_an_engine_that_is_elsewhere_is_not_taken_for_one_of_this_machine(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disks = Disks(tmp_path, "tcp://engine.example:2376", node.engine.store().roots)
    for _ in range(2):
        assert [disk.path for disk in await disks.look()] == [str(tmp_path)]
    assert caplog.text.count("nobody watches the disk of the Docker Engine") == 1


async def test_the_disk_of_an_engine_that_the_agent_may_not_look_at_is_not_watched(tmp_path: Path) -> None:
    async def roots() -> list[str]:
        return ["/" + "x" * 300]  # as one in a closed folder, it cannot be looked at by root either

    (disk,) = await Disks(tmp_path, "unix:///docker.sock", roots).look()
    assert (disk.path, disk.clears) == (str(tmp_path), True)


async def test_an_agent_that_has_no_room_offers_nothing_and_says_why(
    machine: SmallEngine, peer: LeasePeer, tmp_path: Path
) -> None:
    settings = {"QUEUE_ADDRESS": peer.address, "DOCKER_HOST": machine.url, "KEEP_FREE": "1000TiB"}
    agent = AgentProcess(tmp_path / "a", {f"TOWLINE_AGENT_{key}": value for key, value in settings.items()})
    agent.start()
    try:
        beat = await peer.until(
            lambda: next((one for one in peer.beats if "to be kept" in one.withheld), None)
        )
        assert beat.withheld.endswith(f"({machine.disk / 'data'})")
        assert beat.free_slots == 0
        grant = await peer.grant(image_spec("true"))
        reply = await peer.until(lambda: next(iter(peer.replies), None))
        assert (reply.lease_id, reply.accepted, reply.reason) == (grant.lease_id, False, beat.withheld)
        assert await agent.stop() == 0
    finally:
        agent.kill()
