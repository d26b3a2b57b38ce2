"""Outputs: kept as an artifact of the run, however it ended; a registry that is away is waited for."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from towline.v1 import artifacts_pb2, leases_pb2, runs_pb2
from towline_testing.agent import AgentProcess, python_spec
from towline_testing.engine import containers, remove_containers
from towline_testing.lease_peer import LeasePeer
from towline_testing.postgres import PostgresServer, running_postgres
from towline_testing.registry import Registry, registry_service, registry_settings

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with running_postgres("18") as server:
        yield server


@pytest.fixture
async def peer() -> AsyncIterator[LeasePeer]:
    async with LeasePeer().serving() as serving:
        yield serving


class Place:
    """A registry that can go and come back, and an agent that uses it."""

    def __init__(self, database: PostgresServer, peer: LeasePeer, folder: Path) -> None:
        name = f"outputs_{uuid4().hex}"
        database.psql(f"CREATE DATABASE {name}")
        self.settings = registry_settings(database.url(name), folder)
        self.peer = peer
        self.agent = AgentProcess(folder / "a", {"TOWLINE_AGENT_QUEUE_ADDRESS": peer.address})

    @asynccontextmanager
    async def registry(self) -> AsyncIterator[Registry]:
        async with registry_service(self.settings) as service:
            self.settings = self.settings.model_copy(update={"listen": service.address})
            yield service

    async def start_agent(self) -> None:
        self.agent.settings["TOWLINE_AGENT_REGISTRY_ADDRESS"] = self.settings.listen
        self.agent.start()
        await self.peer.until(lambda: any(beat.free_slots for beat in self.peer.beats))


@pytest.fixture
async def place(database: PostgresServer, peer: LeasePeer, tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(database, peer, tmp_path)
    yield made
    if made.agent.process and made.agent.process.poll() is None:
        made.agent.kill()
    remove_containers(towline_agent=f"agents/{made.agent.name}")


async def manifest(registry: Registry, name: str) -> dict[str, artifacts_pb2.ArtifactFile]:
    request = artifacts_pb2.GetArtifactVersionRequest(name=name)
    version = (await registry.artifacts.GetArtifactVersion(request)).artifact_version
    assert version.type == "outputs"
    return {file.path: file for file in version.files}


WRITES_OUTPUTS = """
import os, pathlib, sys
out = pathlib.Path(os.environ["TOWLINE_OUTPUTS"])
(out / "metrics.json").write_text("{}")
(out / "deep" / "er").mkdir(parents=True)
(out / "deep" / "er" / "model.bin").write_bytes(bytes(range(256)) * 20000)
(out / "empty").touch()
(out / "run.sh").write_text("#!/bin/sh"); (out / "run.sh").chmod(0o755)
os.link(out / "metrics.json", out / "same.json")
os.symlink("/etc/passwd", out / "link")
os.mkfifo(out / "pipe")
"""


async def test_files_are_kept_and_links_are_named(place: Place, peer: LeasePeer) -> None:
    async with place.registry() as registry:
        await place.start_agent()
        grant = await peer.grant(python_spec(WRITES_OUTPUTS + "print('done')"))
        result = await peer.finish_of(grant)
        assert result.outcome == runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, result
        run = grant.spec.run.removeprefix("runs/")
        assert result.outputs == f"artifacts/outputs-{run}/versions/v0"
        files = await manifest(registry, result.outputs)
        assert set(files) == {"deep/er/model.bin", "empty", "metrics.json", "run.sh", "same.json"}
        assert [path for path, file in files.items() if file.executable] == ["run.sh"]
        assert files["same.json"].digest == files["metrics.json"].digest
        data = await registry.download(files["deep/er/model.bin"].digest)
        assert data == bytes(range(256)) * 20000
        output, *notes = peer.output(grant).decode().splitlines()
        assert output == "done"
        assert sorted(notes) == [
            "towline: 'link' is not kept: only files and folders are",
            "towline: 'pipe' is not kept: only files and folders are",
        ]
        assert result.log_size == len(peer.output(grant))


async def test_many_files_and_the_same_content_many_times(place: Place, peer: LeasePeer) -> None:
    program = """
import os, pathlib
out = pathlib.Path(os.environ["TOWLINE_OUTPUTS"])
for number in range(200):
    (out / f"own-{number}").write_text(str(number))
    (out / f"same-{number}").write_text("same")
"""
    async with place.registry() as registry:
        await place.start_agent()
        result = await peer.finish_of(await peer.grant(python_spec(program)))
        files = await manifest(registry, result.outputs)
        assert len(files) == 400
        assert len({file.digest for file in files.values()}) == 201
        for number in (0, 99, 199):
            assert await registry.download(files[f"own-{number}"].digest) == str(number).encode()


async def test_nothing_written_is_no_artifact(place: Place, peer: LeasePeer) -> None:
    async with place.registry():
        await place.start_agent()
        grant = await peer.grant(python_spec(""))
        assert (await peer.finish_of(grant)).outputs == ""


async def test_a_failed_run_keeps_what_it_wrote(place: Place, peer: LeasePeer) -> None:
    async with place.registry() as registry:
        await place.start_agent()
        grant = await peer.grant(python_spec(WRITES_OUTPUTS + "sys.exit(3)"))
        result = await peer.finish_of(grant)
        assert result.exit_code == 3
        assert "metrics.json" in await manifest(registry, result.outputs)


async def test_a_cancelled_run_keeps_what_it_wrote(place: Place, peer: LeasePeer) -> None:
    async with place.registry() as registry:
        await place.start_agent()
        program = WRITES_OUTPUTS + "print('ready', flush=True)\nimport time; time.sleep(600)"
        grant = await peer.grant(python_spec(program, user="4321"))
        await peer.until(lambda: peer.output(grant), within=30)
        await peer.cancel(grant, timedelta(0.5))
        result = await peer.finish_of(grant)
        assert result.outcome == runs_pb2.ATTEMPT_OUTCOME_CANCELLED
        assert "metrics.json" in await manifest(registry, result.outputs)


async def test_a_registry_that_is_away_is_waited_for(place: Place, peer: LeasePeer) -> None:
    async with place.registry():
        pass
    await place.start_agent()
    grant = await peer.grant(python_spec(WRITES_OUTPUTS))

    def waits() -> bool:
        details = [event.detail for event in peer.events if event.lease_id == grant.lease_id]
        return any("keeping the outputs: the registry" in detail for detail in details)

    await peer.until(waits, within=30)
    async with place.registry() as registry:
        result = await peer.finish_of(grant)
        assert "metrics.json" in await manifest(registry, result.outputs)


async def test_an_agent_killed_while_it_keeps_outputs(place: Place, peer: LeasePeer) -> None:
    async with place.registry():
        pass
    await place.start_agent()
    grant = await peer.grant(python_spec(WRITES_OUTPUTS + "print('done')"))
    await peer.state_of(grant, runs_pb2.RUN_STATE_STOPPING)
    place.agent.kill()
    async with place.registry() as registry:
        place.agent.start()
        result = await peer.finish_of(grant)
        assert result.outcome == runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
        assert result.outputs.endswith("/versions/v0")
        assert "metrics.json" in await manifest(registry, result.outputs)
        assert peer.output(grant).startswith(b"done\ntowline: ")


async def test_a_dropped_run_makes_no_artifact(place: Place, peer: LeasePeer) -> None:
    async with place.registry():
        pass
    await place.start_agent()
    grant = await peer.grant(python_spec(WRITES_OUTPUTS))
    await peer.state_of(grant, runs_pb2.RUN_STATE_STOPPING)
    renewed = leases_pb2.Renewed(ack_seq=1, lost_lease_ids=[grant.lease_id])
    await peer.say(leases_pb2.StreamLeasesResponse(renewed=renewed))
    await peer.until(lambda: not containers(towline_run=grant.spec.run))
    assert not list((place.agent.folder / "work").iterdir())
    assert not peer.finishes


async def test_a_preempted_run_saves_its_work(place: Place) -> None:
    program = """
import os, pathlib, signal, sys
def save(*_):
    (pathlib.Path(os.environ["TOWLINE_OUTPUTS"]) / "checkpoint").write_text("step 7")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True: signal.pause()
"""
    async with place.registry() as registry:
        await place.start_agent()
        grant = await place.peer.grant(python_spec(program))
        await place.peer.until(lambda: place.peer.output(grant) == b"ready\n", within=30)
        await place.peer.cancel(grant, timedelta(seconds=20), leases_pb2.STOP_REASON_PREEMPTED)
        result = await place.peer.finish_of(grant)
        assert result.outcome == runs_pb2.ATTEMPT_OUTCOME_FAILED and result.exit_code == 0
        assert result.failure.cause == runs_pb2.FAILURE_CAUSE_PREEMPTED
        assert list(await manifest(registry, result.outputs)) == ["checkpoint"]
