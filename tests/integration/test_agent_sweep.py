"""The sweep: nothing of ours on the engine is without an owner, and nothing of others is touched."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from towline.v1 import leases_pb2
from towline_agent.builder import BuildSettings, DockerImages
from towline_agent.core.containers import ImageFacts, container_config
from towline_agent.core.ownership import LABEL_INSTANCE, Owner, attempt_key, container_name
from towline_agent.core.recipe import Indexes, build_container
from towline_agent.engine.docker import DockerEngine, connecting
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import Container
from towline_agent.packages import Packages
from towline_agent.registry import Registry
from towline_agent.sources import Sources
from towline_agent.sweep import orphans, sweep
from towline_testing.agent import image_spec
from towline_testing.engine import base_image, docker, image_id, inspect, remove_containers, volumes
from towline_testing.waiting import eventually_async

pytestmark = pytest.mark.docker


@dataclass(frozen=True)
class Attempt:
    grant: leases_pb2.Grant


@dataclass
class Node:
    """An installation's share of the engine, and the attempts that its agent has."""

    engine: DockerEngine
    images: DockerImages
    owner: Owner
    held: list[Attempt] = field(default_factory=list)

    async def make(self) -> tuple[Attempt, str]:
        """Make an attempt's container as an agent does; returns its volume too."""
        grant = leases_pb2.Grant(lease_id=uuid4().hex, epoch=2, spec=image_spec("true"))
        image = ImageFacts(image_id(base_image()))
        name = container_name(grant.spec.run, grant.epoch)
        container = await self.engine.create(name, container_config(grant, image, self.owner))
        return Attempt(grant), volume_of(container)

    async def build(self, start: int) -> tuple[str, str]:
        """Make a build's container, of an agent's start with that number; returns its volume too."""
        builder = f"{self.owner.instance_id}:{start}"
        config = build_container(image_id(base_image()), builder, cache_volume="", network="")
        container = await self.engine.create(f"towline-build-{uuid4().hex}", config)
        return container, volume_of(container)

    async def orphans(self) -> list[str]:
        return await orphans(self.engine, self.owner, map(key, self.held))

    @asynccontextmanager
    async def sweeping(self, held: Callable[[], list[Attempt]] | None = None) -> AsyncIterator[None]:
        health = EngineHealth(self.engine, lambda: None)
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(health.run())
            sweeping = group.create_task(
                sweep(self.engine, health, self.images, self.owner, held or (lambda: self.held))
            )
            yield
            asking.cancel()
            sweeping.cancel()


def key(attempt: Attempt) -> str:
    return attempt_key(attempt.grant.spec.run, attempt.grant.epoch)


def volume_of(container: str) -> str:
    (volume,) = (mount["Name"] for mount in inspect(container)["Mounts"])
    return str(volume)


def lose_container(attempt: Attempt) -> None:
    """Remove it as an engine that crashes may: its volume stays."""
    docker("rm", "--force", container_name(attempt.grant.spec.run, attempt.grant.epoch))


@asynccontextmanager
async def node(folder: Path, agent: str) -> AsyncIterator[Node]:
    owner = Owner(agent, str(uuid4()))
    async with connecting(None) as engine, grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        registry = Registry(channel, "no registry")
        sources, packages = Sources(registry, folder, ()), Packages(registry, folder, ())
        settings = BuildSettings(owner.instance_id, 5, (), Indexes())
        yield Node(engine, DockerImages(engine, sources, packages, settings), owner)
        remove_containers(towline_instance=owner.instance_id)
        for builder in (f"{owner.instance_id}:{start}" for start in (4, 5)):
            remove_containers(towline_builder=builder)
        for name in docker(
            "volume", "ls", "-q", f"--filter=label={LABEL_INSTANCE}={owner.instance_id}"
        ).split():
            docker("volume", "rm", name)


@pytest.fixture
async def ours(tmp_path: Path) -> AsyncIterator[Node]:
    async with node(tmp_path, f"agents/test-{uuid4().hex}") as made:
        yield made


async def test_what_has_no_owner_goes_and_what_has_one_stays(ours: Node) -> None:
    kept, kept_volume = await ours.make()
    orphan, orphan_volume = await ours.make()
    lost, lost_volume = await ours.make()
    lose_container(lost)
    ours.held.append(kept)
    found = sorted(await ours.orphans())
    assert [line.partition(" ")[0] for line in found] == ["container", "volume", "volume"]
    assert {line.rpartition(" ")[2] for line in found} == {key(orphan), key(lost)}
    async with ours.sweeping():
        await eventually_async(lambda: _none_of(ours), within=20)
    assert await ours.engine.inspect(container_name(kept.grant.spec.run, 2))
    left = volumes()
    assert kept_volume in left and not {orphan_volume, lost_volume} & left


async def _none_of(one: Node) -> bool:
    return not await one.orphans()


async def test_half_done_builds_go(ours: Node) -> None:
    of_before, volume_of_before = await ours.build(4)
    failed_to_clean_up, volume_of_it = await ours.build(5)
    lost, lost_volume = await ours.build(4)
    docker("rm", "--force", lost)
    assert len(await ours.orphans()) == 5
    await ours.images.sweep()
    assert await ours.orphans() == []
    assert await ours.engine.inspect(of_before) is None
    assert await ours.engine.inspect(failed_to_clean_up) is None
    assert not {volume_of_before, volume_of_it, lost_volume} & volumes()


async def test_another_data_folder_s_are_left_and_told_of(
    ours: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with node(tmp_path, ours.owner.agent) as other:
        theirs, their_volume = await other.make()
        lost, lost_volume = await other.make()
        lose_container(lost)
        build, _ = await other.build(4)
        mine, _ = await ours.make()
        async with ours.sweeping():
            await eventually_async(lambda: _none_of(ours), within=20)
            await eventually_async(lambda: _told(caplog, other), within=20)
        assert await other.engine.inspect(container_name(theirs.grant.spec.run, 2))
        assert await other.engine.inspect(build)
        assert {their_volume, lost_volume} <= volumes()
        assert await ours.engine.inspect(container_name(mine.grant.spec.run, 2)) is None


async def _told(caplog: pytest.LogCaptureFixture, other: Node) -> bool:
    return f"{LABEL_INSTANCE}={other.owner.instance_id})" in caplog.text


async def test_an_attempt_whose_container_is_made_during_the_sweep(ours: Node) -> None:
    """It is held before its container is there, so who is asked later than the engine knows it."""
    orphan, _ = await ours.make()
    engine = ours.engine
    young: list[tuple[Attempt, str]] = []

    class MakesOneMeanwhile(DockerEngine):
        """The engine, with an attempt that begins just before it is asked for its containers."""

        async def containers(self, labels: Mapping[str, str]) -> list[Container]:
            if not young:
                young.append(await ours.make())
            return await engine.containers(labels)

    ours.engine = MakesOneMeanwhile(engine._client, engine._credentials)
    async with ours.sweeping(lambda: [attempt for attempt, _ in young]):
        gone = container_name(orphan.grant.spec.run, 2)
        await eventually_async(lambda: _gone(ours, gone), within=20)
    ((attempt, volume),) = young
    assert await engine.inspect(container_name(attempt.grant.spec.run, 2))
    assert volume in volumes()


async def _gone(one: Node, name: str) -> bool:
    return await one.engine.inspect(name) is None


async def test_a_renamed_agent_still_owns_its_containers(ours: Node) -> None:
    await ours.make()
    ours.owner = Owner(f"agents/test-{uuid4().hex}", ours.owner.instance_id)
    assert len(await ours.orphans()) == 2
    async with ours.sweeping():
        await eventually_async(lambda: _none_of(ours), within=20)
