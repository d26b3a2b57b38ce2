"""An agent that is killed amid a build, on an engine of its own: another takes over, and nothing is left."""

import io
import json
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from towline.v1 import jobs_pb2, leases_pb2, runs_pb2
from towline_testing.agent import AgentProcess, code_spec, launch_spec
from towline_testing.container_registry import ContainerRegistry, container_registry
from towline_testing.engine import base_image, remove_containers
from towline_testing.engine_watch import WatchedEngine
from towline_testing.engines import engines
from towline_testing.lease_peer import LeasePeer
from towline_testing.postgres import PostgresServer
from towline_testing.registry import Registry, digest_of, registry_service, registry_settings

pytestmark = pytest.mark.docker

STARTS = rb"POST /v[\d.]+/containers/[0-9a-f]+/start"
COMMITS = rb"POST /v[\d.]+/commit"
PUSHES = rb"POST /v[\d.]+/images/[^ ]+/push"
BUILDS = rb"POST /v[\d.]+/build\?"
EXPIRE = "UPDATE registry.images SET expire_time = now() - interval '1 s' WHERE expire_time IS NOT NULL"


@pytest.fixture(scope="module")
def other_engine() -> Iterator[str]:
    with engines(1, base_image()) as (url,):
        yield url


class Node:
    """An agent, its queue service, and its engine."""

    def __init__(self, agent: AgentProcess, peer: LeasePeer, *engine: str) -> None:
        self.agent, self.peer, self.engine = agent, peer, engine

    def docker(self, *arguments: str) -> list[str]:
        command = ["docker", *self.engine, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    @property
    def instance(self) -> str:
        return str(json.loads((self.agent.folder / "agent.json").read_text())["instance_id"])

    def left(self, marker: str) -> list[str]:
        """Name what builds of this agent have left, and what is of a Dockerfile with this marker."""
        builder = '{{.Label "towline.builder"}}'
        found = [
            f"{kind} {line}"
            for kind, list_all in (("container", ("ps", "--all")), ("volume", ("volume", "ls")))
            for line in self.docker(*list_all, "--filter=label=towline.builder", f"--format={builder}")
            if line.startswith(f"{self.instance}:")
        ]
        shown = self.docker("ps", "--all", "--no-trunc", "--format={{.ID}} {{.Command}}")
        found += [f"container {line}" for line in shown if marker in line]
        made = f"--filter=label=towline.made-by={self.instance}"
        found += self.docker("images", made, "--filter=dangling=true", "--format=image {{.ID}}")
        names = self.docker("images", made, "--format={{.Repository}}:{{.Tag}}")
        return found + [name for name in names if not name.startswith("towline/")]


class Fleet:
    """Two nodes that share images, and the registry that says who builds."""

    def __init__(self, registry: Registry, postgres: PostgresServer, database: str) -> None:
        self._registry, self._postgres, self._database = registry, postgres, database
        self.address = registry.address
        self.marker = uuid4().hex

    async def job(self, *, dockerfile: bool) -> jobs_pb2.JobSpec:
        """Make a job that nobody has built."""
        files = {"main.py": f"print('{self.marker}')"}
        if dockerfile:
            steps = (f"FROM {base_image()}", "COPY main.py /", f"RUN sleep 1 && echo {self.marker}")
            files["Dockerfile.towline"] = "\n".join([*steps, 'CMD ["python3", "/main.py"]', ""])
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
        await self._registry.upload(buffer.getvalue())
        source = digest_of(buffer.getvalue()), len(buffer.getvalue())
        if not dockerfile:
            return code_spec(*source)
        how = jobs_pb2.DockerfileBuild(path="Dockerfile.towline")
        return code_spec(*source, "python3", "/main.py", dockerfile=how)

    def expire(self) -> None:
        """Let the time of all build leases be up."""
        self._postgres.psql(EXPIRE, self._database)

    def images(self) -> list[str]:
        """Give what the images that somebody has begun were pushed as; empty: they are not there yet."""
        shown = self._postgres.psql("SELECT '=' || reference FROM registry.images", self._database)
        return [line.removeprefix("=") for line in shown.split()]


@pytest.fixture
async def fleet(embedded_postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    name = f"killed_{uuid4().hex}"
    embedded_postgres.psql(f"CREATE DATABASE {name}")
    settings = registry_settings(embedded_postgres.url(name), tmp_path)
    async with registry_service(settings) as registry:
        yield Fleet(registry, embedded_postgres, name)


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ContainerRegistry]:
    with container_registry(tmp_path / "images") as served:
        yield served


@pytest.mark.parametrize(
    ("request_", "nth", "answered"),
    [
        pytest.param(STARTS, 1, True, id="installing"),
        pytest.param(COMMITS, 2, False, id="keeping the source"),
        pytest.param(PUSHES, 1, True, id="pushing"),
        pytest.param(BUILDS, 1, True, id="Dockerfile"),
    ],
)
async def test_a_builder_that_is_killed_is_replaced_and_leaves_nothing(
    fleet: Fleet,
    images: ContainerRegistry,
    other_engine: str,
    tmp_path: Path,
    request_: bytes,
    nth: int,
    answered: bool,
) -> None:
    watched = WatchedEngine(tmp_path / "e")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(await watched.start())
        nodes = []
        for name, engine in (("a", watched.url), ("b", other_engine)):
            # Not through what this test serves: the client would be waited for.
            there = ("--host", engine) if name == "b" else ()
            peer = await stack.enter_async_context(LeasePeer().serving())
            settings = {
                "TOWLINE_AGENT_QUEUE_ADDRESS": peer.address,
                "TOWLINE_AGENT_REGISTRY_ADDRESS": fleet.address,
                "TOWLINE_AGENT_DOCKER_HOST": engine,
                "TOWLINE_AGENT_IMAGE_REPOSITORY": images.repository(),
                "TOWLINE_AGENT_BUILD_NETWORK": "host",
                # Never asked: it makes the environment one that is on no engine yet.
                "TOWLINE_AGENT_BUILD_EXTRA_INDEX_URLS": f"http://127.0.0.1:1/{fleet.marker}",
            }
            agent = AgentProcess(tmp_path / name, settings)
            stack.callback(remove_containers, towline_agent=f"agents/{agent.name}")
            nodes.append(Node(agent, peer, *there))
            agent.start()
            stack.callback(agent.kill)
        killed, other = nodes
        job = await fleet.job(dockerfile=request_ == BUILDS)
        watched.act(request_, killed.agent.kill, nth=nth, answered=answered)
        for node in nodes:
            await node.peer.until(partial(offers, node))
        lost = await killed.peer.grant(launch_spec(job, network="host"))
        await killed.peer.until(watched.done.is_set, within=30)
        fleet.expire()
        built = await other.peer.grant(launch_spec(job, network="host"))
        assert await succeeded(other, built) == runs_pb2.IMAGE_OUTCOME_BUILT
        await other.peer.until(lambda: all(fleet.images()), within=20)
        assert {image.rpartition(":")[2] for image in fleet.images()} <= set(images.manifests())
        killed.agent.start()
        assert await succeeded(killed, lost) in (runs_pb2.IMAGE_OUTCOME_PULLED, runs_pb2.IMAGE_OUTCOME_REUSED)
        for node in nodes:
            await node.peer.until(partial(nothing_left, node, fleet.marker), within=20)


def offers(node: Node) -> bool:
    return any(beat.free_slots for beat in node.peer.beats)


def nothing_left(node: Node, marker: str) -> bool:
    return not node.left(marker)


async def succeeded(node: Node, grant: leases_pb2.Grant) -> runs_pb2.ImageOutcome.ValueType:
    """Wait for the end of a run, and return how its image was got."""
    result = await node.peer.finish_of(grant, within=40)
    assert result.outcome == runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, (result, node.agent.log())
    return (await node.peer.state_of(grant, runs_pb2.RUN_STATE_RUNNING)).image_outcome
