"""Inputs: artifact versions in volumes of the node, each brought there once, whole, and read by many runs."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from towline.v1 import artifacts_pb2, leases_pb2, runs_pb2
from towline_testing.agent import AgentProcess, code_spec, launch_spec, python_spec
from towline_testing.cut import CuttingProxy, cutting_proxy
from towline_testing.engine import (
    EngineProxy,
    base_image,
    containers,
    docker,
    remove_containers,
    remove_inputs,
)
from towline_testing.lease_peer import LeasePeer
from towline_testing.postgres import PostgresServer
from towline_testing.registry import (
    Registry,
    digest_of,
    new_id,
    registry_service,
    registry_settings,
)

pytestmark = pytest.mark.docker

SUCCEEDED = runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
MEGABYTE = 1024 * 1024

# Prints what a program finds: every file with its mode and digest.
LISTS = """
import hashlib, json, os
root = os.environ["TOWLINE_INPUTS"]
found = {}
for folder, _, names in os.walk(root):
    for name in names:
        path = os.path.join(folder, name)
        digest = hashlib.sha256(open(path, "rb").read()).hexdigest()
        found[os.path.relpath(path, root)] = [oct(os.stat(path).st_mode & 0o777), digest]
print(json.dumps(found, sort_keys=True), flush=True)
print(open(os.environ["TOWLINE_INPUTS_FILE"]).read(), flush=True)
"""
WRITES = """
for change in (lambda: open(root + "/data/new", "w"), lambda: os.remove(root + "/data/a.txt")):
    try:
        change()
    except OSError as error:
        print(error.strerror)
"""
WAITS = """
import os, time
while not os.path.exists("/towline/go"): time.sleep(0.05)
"""


class Place:
    """A registry behind a line that may break, and an agent that reads from it."""

    def __init__(self, registry: Registry, proxy: CuttingProxy, peer: LeasePeer, folder: Path) -> None:
        self.registry, self.proxy, self.peer, self.folder = registry, proxy, peer, folder
        settings = {
            "TOWLINE_AGENT_QUEUE_ADDRESS": peer.address,
            "TOWLINE_AGENT_REGISTRY_ADDRESS": proxy.address,
            "TOWLINE_AGENT_SLOTS": "2",
        }
        self.agent = AgentProcess(folder / "a", settings)

    async def start_agent(self, **settings: str) -> None:
        beats = len(self.peer.beats)
        self.agent.settings |= {f"TOWLINE_AGENT_{name}": value for name, value in settings.items()}
        self.agent.start()
        await self.peer.until(lambda: any(beat.capacity_gen for beat in self.peer.beats[beats:]))

    async def put(self, artifact: str, files: dict[str, bytes]) -> str:
        """Make a version of an artifact; files whose names end in .sh are executable."""
        for data in set(files.values()):
            await self.registry.upload(data)
        request = artifacts_pb2.CreateArtifactVersionRequest(
            request_id=new_id(),
            artifact=f"artifacts/{artifact}",
            type="dataset",
            files=[
                artifacts_pb2.ArtifactFile(
                    path=path,
                    digest=digest_of(data),
                    size_bytes=len(data),
                    executable=path.endswith(".sh"),
                )
                for path, data in sorted(files.items())
            ],
        )
        return (await self.registry.artifacts.CreateArtifactVersion(request)).artifact_version.name

    async def grant(self, program: str, **inputs: str) -> leases_pb2.Grant:
        spec = python_spec(program)
        for name, version in inputs.items():
            spec.inputs.add(name=name, artifact=version)
        return await self.peer.grant(spec)

    def instance(self) -> str:
        return str(json.loads((self.agent.folder / "agent.json").read_text())["instance_id"])

    def volumes(self) -> list[str]:
        """Return the digests of the artifact versions in volumes of the agent's."""
        owner = f"label=towline.input-owner={self.instance()}"
        return sorted(
            docker("volume", "ls", "--filter", owner, "--format", '{{.Label "towline.input"}}').split()
        )

    def fillers(self) -> list[str]:
        return docker(
            "ps", "--all", "--quiet", "--filter", f"label=towline.input-filler={self.instance()}"
        ).split()

    def details(self, grant: leases_pb2.Grant) -> list[str]:
        return [event.detail for event in self.peer.events if event.lease_id == grant.lease_id]

    def remove(self) -> None:
        if self.agent.process and self.agent.process.poll() is None:
            self.agent.kill()
        remove_containers(towline_agent=f"agents/{self.agent.name}")
        remove_inputs(self.agent.folder)


@pytest.fixture
async def place(embedded_postgres: PostgresServer, peer: LeasePeer, tmp_path: Path) -> AsyncIterator[Place]:
    name = f"inputs_{new_id().replace('-', '')}"
    embedded_postgres.psql(f"CREATE DATABASE {name}")
    async with AsyncExitStack() as stack:
        settings = registry_settings(embedded_postgres.url(name), tmp_path)
        registry = await stack.enter_async_context(registry_service(settings))
        proxy = await stack.enter_async_context(cutting_proxy(registry.address, []))
        made = Place(registry, proxy, peer, tmp_path)
        stack.callback(made.remove)
        yield made


def listed(files: dict[str, bytes], below: str) -> dict[str, list[str]]:
    return {
        f"{below}/{path}": ["0o755" if path.endswith(".sh") else "0o644", hashlib.sha256(data).hexdigest()]
        for path, data in files.items()
    }


DATA = {
    "a.txt": b"a",
    "deep/er/b.bin": bytes(range(256)) * 100,
    "deep/same.txt": b"a",
    "empty": b"",
    "run.sh": b"#!/bin/sh",
    "weights.bin": os.urandom(3 * MEGABYTE + 5),
    "zoo/" + "x" * 150 + "/\u00e9.txt": b"long and not ASCII",
}


async def test_two_runs_at_once_read_what_was_brought_once(place: Place) -> None:
    peer = place.peer
    data = await place.put("data", DATA)
    other = await place.put("other", {"only": b"one"})
    await place.start_agent()
    grants = [await place.grant(LISTS + WRITES, data=data, more=other) for _ in range(2)]
    expected = listed(DATA, "data") | listed({"only": b"one"}, "more")
    for grant in grants:
        result = await peer.finish_of(grant)
        assert result.outcome == SUCCEEDED, (result, place.agent.log())
        found, names, *errors = peer.output(grant).decode().splitlines()
        assert json.loads(found) == expected
        assert json.loads(names) == {"data": data, "more": other}
        assert errors == ["Read-only file system"] * 2
    assert len(place.volumes()) == 2
    brought = [detail for grant in grants for detail in place.details(grant) if "MiB" in detail]
    assert any(detail.startswith("getting input data (data:v0), 0.0 of 3.0 MiB") for detail in brought)

    # Another version with the same files is the same to the node, also after a restart.
    await place.agent.stop()
    await place.start_agent()
    third = await place.grant(LISTS, data=await place.put("copy", DATA))
    assert (await peer.finish_of(third)).outcome == SUCCEEDED
    assert json.loads(peer.output(third).splitlines()[0]) == listed(DATA, "data")
    assert not any("getting input" in detail for detail in place.details(third))
    assert len(place.volumes()) == 2
    await peer.until(lambda: not place.fillers())


async def test_what_cannot_be_had_is_told_by_name(place: Place) -> None:
    await place.start_agent()
    missing = await place.peer.finish_of(await place.grant(LISTS, data="artifacts/none/versions/v4"))
    assert missing.failure.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR
    assert missing.failure.message.startswith("Input data (none:v4) is not in the registry")

    kept = await place.put("kept", {"small": b"x" * 1000, "large": os.urandom(2 * MEGABYTE)})
    blobs = [file for file in (place.folder / "blobs").rglob("*") if file.is_file()]
    assert blobs
    for damage in (lambda file: file.write_bytes(bytes(file.stat().st_size)), Path.unlink):
        for file in blobs:
            damage(file)
        failure = (await place.peer.finish_of(await place.grant(LISTS, data=kept))).failure
        assert failure.cause == runs_pb2.FAILURE_CAUSE_CONTROL_PLANE
        assert failure.message.startswith("Input data (kept:v0) could not be brought to the node")
    await place.peer.until(lambda: not place.fillers() and not place.volumes())


async def test_a_line_that_breaks_again_and_again_delays_and_harms_nothing(place: Place) -> None:
    files = {"big": os.urandom(6 * MEGABYTE)} | {f"small/{n}": os.urandom(50_000) for n in range(20)}
    data = await place.put("data", files)
    place.proxy.cuts = [2 * MEGABYTE] * 4
    await place.start_agent()
    grant = await place.grant(LISTS, data=data)
    assert (await place.peer.finish_of(grant, within=60)).outcome == SUCCEEDED
    assert json.loads(place.peer.output(grant).splitlines()[0]) == listed(files, "data")
    assert place.proxy.broken


async def test_a_cancel_ends_a_run_whose_input_does_not_come(place: Place) -> None:
    peer = place.peer
    data = await place.put("data", {"big": os.urandom(8 * MEGABYTE)})
    place.proxy.cuts = [3 * MEGABYTE] + [1] * 10_000
    await place.start_agent()
    grant = await place.grant(LISTS, data=data)
    await peer.until(lambda: place.proxy.broken > 2, within=30)
    assert place.fillers()
    await peer.cancel(grant, timedelta(0))
    assert (await peer.finish_of(grant, within=5)).outcome == runs_pb2.ATTEMPT_OUTCOME_CANCELLED
    await peer.until(lambda: not place.fillers() and not place.volumes(), within=20)

    place.proxy.cuts.clear()
    again = await place.grant(LISTS, data=data)
    assert (await peer.finish_of(again, within=60)).outcome == SUCCEEDED


async def test_room_is_made_for_what_is_needed_and_never_under_a_run(place: Place) -> None:
    peer = place.peer
    one, two, three = [await place.put(f"data-{n}", {"big": os.urandom(2 * MEGABYTE)}) for n in range(3)]
    large = await place.put("large", {"big": os.urandom(6 * MEGABYTE)})
    await place.start_agent(INPUT_CACHE="5MiB")

    refused = (await peer.finish_of(await place.grant(LISTS, data=large))).failure
    assert refused.cause == runs_pb2.FAILURE_CAUSE_CONTROL_PLANE
    assert "TOWLINE_AGENT_INPUT_CACHE" in refused.message

    # What was used longest ago goes.
    for version in (one, two, one, three):
        assert (await peer.finish_of(await place.grant(LISTS, data=version))).outcome == SUCCEEDED
    kept = await _digests(place, one, three)
    await peer.until(lambda: place.volumes() == kept)

    # A run that needs both does not take them from one that reads them.
    holder = await place.grant(LISTS + WAITS, a=one, b=three)
    await peer.until(lambda: b"{" in peer.output(holder), within=30)
    waiter = await place.grant(LISTS, data=two)
    await peer.until(lambda: any("waiting for room" in text for text in place.details(waiter)), within=30)
    assert place.volumes() == kept
    (container,) = containers(towline_run=holder.spec.run)
    docker("exec", container, "touch", "/towline/go")
    assert (await peer.finish_of(holder)).outcome == SUCCEEDED
    assert (await peer.finish_of(waiter)).outcome == SUCCEEDED
    assert len(place.volumes()) == 2


async def test_an_agent_that_is_killed_while_it_fetches_begins_anew(place: Place) -> None:
    peer = place.peer
    files = {"first": os.urandom(4 * MEGABYTE), "second": os.urandom(4 * MEGABYTE)}
    data = await place.put("data", files)
    place.proxy.cuts = [3 * MEGABYTE] + [1] * 10_000
    await place.start_agent()
    grant = await place.grant(LISTS, data=data)
    await peer.until(lambda: place.proxy.broken > 2, within=30)
    place.agent.kill()
    (left,) = place.fillers()
    place.proxy.cuts.clear()
    await place.start_agent()
    assert (await peer.finish_of(grant, within=60)).outcome == SUCCEEDED
    assert json.loads(peer.output(grant).splitlines()[0]) == listed(files, "data")
    await peer.until(lambda: left not in place.fillers() and len(place.volumes()) == 1, within=20)


async def test_an_engine_that_goes_while_an_input_comes_is_waited_for(place: Place, tmp_path: Path) -> None:
    peer = place.peer
    files = {"big": os.urandom(8 * MEGABYTE)}
    data = await place.put("data", files)
    place.proxy.cuts = [3 * MEGABYTE] + [1] * 10_000
    engine = EngineProxy(tmp_path / "engine.sock")
    await engine.start()
    await place.start_agent(DOCKER_HOST=engine.url)
    grant = await place.grant(LISTS, data=data)
    await peer.until(lambda: place.proxy.broken > 2, within=30)
    await engine.stop()
    place.proxy.cuts.clear()
    await peer.until(lambda: any("does not answer" in text for text in place.details(grant)), within=30)
    await engine.start()
    assert (await peer.finish_of(grant, within=60)).outcome == SUCCEEDED
    assert json.loads(peer.output(grant).splitlines()[0]) == listed(files, "data")
    await peer.until(lambda: not place.fillers() and len(place.volumes()) == 1, within=20)
    await engine.stop()


async def test_a_volume_that_somebody_removed_is_filled_again(place: Place) -> None:
    peer = place.peer
    data = await place.put("data", DATA)
    await place.start_agent()
    first = await place.grant(LISTS, data=data)
    assert (await peer.finish_of(first)).outcome == SUCCEEDED
    await peer.until(lambda: not place.fillers() and not containers(towline_run=first.spec.run))
    owner = f"label=towline.input-owner={place.instance()}"
    docker("volume", "rm", *docker("volume", "ls", "--quiet", "--filter", owner).split())
    again = await place.grant(LISTS, data=data)
    assert (await peer.finish_of(again)).outcome == SUCCEEDED
    assert json.loads(peer.output(again).splitlines()[0]) == listed(DATA, "data")


async def test_inputs_that_no_run_uses_go_where_a_disk_is_full(place: Place) -> None:
    data, other = await place.put("data", DATA), await place.put("other", {"x": b"x"})
    await place.start_agent()
    assert (await place.peer.finish_of(await place.grant(LISTS, data=data))).outcome == SUCCEEDED
    waiting = await place.grant(WAITS, data=other)
    await place.peer.state_of(waiting, runs_pb2.RUN_STATE_RUNNING)
    assert len(place.volumes()) == 2
    place.agent.kill()
    await place.start_agent(KEEP_FREE="1000TiB")
    await place.peer.until(lambda: len(place.volumes()) == 1, within=30)
    await place.peer.cancel(waiting, timedelta(0))
    await place.peer.finish_of(waiting)


async def test_an_image_that_somebody_removed_before_its_container_was_made_is_looked_for_again(
    place: Place,
) -> None:
    reference = f"towline-test/gone:{new_id()}"

    def make_image() -> None:
        container = docker("create", base_image(), "true")
        docker("commit", container, reference)
        docker("rm", container)

    make_image()
    data = await place.put("data", DATA)
    place.proxy.cuts = [1] * 10_000
    await place.start_agent()
    spec = python_spec(LISTS)
    spec.job.image.reference = reference
    spec.inputs.add(name="data", artifact=data)
    grant = await place.peer.grant(spec)
    # It has the image by now, and asks what its inputs are.
    await place.peer.until(lambda: place.proxy.broken > 2, within=30)
    docker("rmi", reference)
    make_image()
    place.proxy.cuts.clear()
    result = await place.peer.finish_of(grant, within=60)
    docker("rmi", "--force", reference)
    assert result.outcome == SUCCEEDED, result
    assert "its image was removed from the engine" in place.details(grant)


READS_FILES = """
import json, os
print(json.dumps({path: open(path).read() for path in ("conf/model.yaml", "conf/other.yaml", "top.json")}))
print(os.stat("conf/model.yaml").st_uid, os.getuid())
"""


@pytest.mark.parametrize("read_only", [False, True])
async def test_configuration_files_have_the_runs_own_values(place: Place, read_only: bool) -> None:
    files = {
        "main.py": READS_FILES,
        "conf/model.yaml": "depth: 2",
        "conf/other.yaml": "a: 1",
        "top.json": "{}",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    source = buffer.getvalue()
    await place.registry.upload(source)
    job = code_spec(digest_of(source), len(source))
    job.config_files.add(path="conf/model.yaml", key="model")
    job.config_files.add(path="top.json", key="top")
    await place.start_agent()
    config = {"model": {"depth": 4, "name": "\u00e9"}, "top": {}}
    grant = await place.peer.grant(launch_spec(job, config=config, read_only_root=read_only))
    result = await place.peer.finish_of(grant, within=120)
    assert result.outcome == SUCCEEDED, (result, place.peer.build_log(grant))
    found, owners = place.peer.output(grant).decode().splitlines()
    contents = json.loads(found)
    assert contents["conf/other.yaml"] == "a: 1"
    assert json.loads(contents["conf/model.yaml"]) == config["model"]
    assert json.loads(contents["top.json"]) == {}
    assert owners == "1000 1000"


async def _digests(place: Place, *versions: str) -> list[str]:
    found = []
    for name in versions:
        request = artifacts_pb2.GetArtifactVersionRequest(name=name)
        found.append((await place.registry.artifacts.GetArtifactVersion(request)).artifact_version.digest)
    return sorted(found)
