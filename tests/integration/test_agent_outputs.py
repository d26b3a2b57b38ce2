"""Outputs: kept as an artifact of the run, however it ended; a registry that is away is waited for."""

import json
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


LOGS = """
import pathlib, sys
import towline
run = towline.init()
run.summary["accuracy"] = 0.5
run.summary["best"] = {"epoch": 3}
pathlib.Path("/tmp/model").mkdir()
pathlib.Path("/tmp/model/w.bin").write_bytes(b"w" * 1000)
for _ in range(2):
    run.log_artifact("/tmp/model", type="model", aliases=["best"], metadata={"accuracy": 0.5})
(run.outputs / "metrics.json").write_text("{}")
run.summary["last"] = True
"""


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ("", runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED),
        ("sys.exit(3)", runs_pb2.ATTEMPT_OUTCOME_FAILED),
        (
            # Without a further call the last result is written within a second: then the signal may come.
            "import os, time\n"
            "while b'last' not in open(os.environ['TOWLINE_SUMMARY'], 'rb').read(): time.sleep(0.01)\n"
            "print('ready', flush=True)\n"
            "time.sleep(600)",
            runs_pb2.ATTEMPT_OUTCOME_CANCELLED,
        ),
    ],
)
async def test_results_are_kept_however_a_run_ends(
    place: Place, peer: LeasePeer, ending: str, outcome: int
) -> None:
    async with place.registry() as registry:
        await place.start_agent()
        grant = await peer.grant(python_spec(LOGS + ending, user="4321"))
        if outcome == runs_pb2.ATTEMPT_OUTCOME_CANCELLED:
            await peer.until(lambda: peer.output(grant), within=30)
            await peer.cancel(grant, timedelta(seconds=20))
        result = await peer.finish_of(grant)
        assert result.outcome == outcome, result
        assert json.loads(result.summary_json) == {"accuracy": 0.5, "best": {"epoch": 3}, "last": True}
        # The second one has the same content: it is the same version.
        assert result.logged_artifacts == ["artifacts/model/versions/v0"]
        request = artifacts_pb2.GetArtifactVersionRequest(name="artifacts/model/versions/best")
        model = (await registry.artifacts.GetArtifactVersion(request)).artifact_version
        assert (model.type, json.loads(model.metadata_json)) == ("model", {"accuracy": 0.5})
        assert (model.producer_run, model.producer_job_version) == (grant.spec.run, "jobs/test/versions/v0")
        assert [file.path for file in model.files] == ["w.bin"]
        request = artifacts_pb2.GetArtifactVersionRequest(name=result.outputs)
        outputs = (await registry.artifacts.GetArtifactVersion(request)).artifact_version
        assert (outputs.producer_run, outputs.producer_job_version) == (
            grant.spec.run,
            "jobs/test/versions/v0",
        )


MALFORMED = """
import json, os, pathlib
artifacts = pathlib.Path(os.environ["TOWLINE_ARTIFACTS"])
pathlib.Path(os.environ["TOWLINE_SUMMARY"]).write_text(SUMMARY)
def log(folder, manifest, **files):
    (artifacts / folder / "files").mkdir(parents=True)
    for name, text in files.items():
        (artifacts / folder / "files" / name).write_text(text)
    if manifest is not None:
        (artifacts / folder / "manifest.json").write_text(manifest)
log("0", None, unfinished="x")
log("1", "{", a="x")
log("2", json.dumps({"name": ["x"], "type": "model"}), a="x")
log("3", json.dumps({"name": "a b", "type": "model"}), a="x")
log("4", json.dumps({"name": "empty", "type": "model"}))
log("5", json.dumps({"name": "good", "type": "model", "aliases": None}), a="x")
log("odd", json.dumps({"name": "odd", "type": "model"}), a="x")
os.symlink("/etc/passwd", artifacts / "5/files/link")
log("6", json.dumps({"name": "six", "type": "model", "aliases": 5}), a="x")
log("7", "[" * 100_000, a="x")
print("done")
"""


@pytest.mark.parametrize(
    ("summary", "problem"),
    [
        ("'{' + ' ' * 70000 + '}'", "is more than 65536 bytes"),
        ("'x' * 10**6", "is more than 65536 bytes"),
        ("'[1]'", "is no JSON object"),
        ("'{\"a\": NaN}'", "is not JSON"),
        ("''", ""),
    ],
)
async def test_malformed_results_are_left_out_with_a_line_and_never_fail_a_run(
    place: Place, peer: LeasePeer, summary: str, problem: str
) -> None:
    async with place.registry():
        await place.start_agent()
        grant = await peer.grant(python_spec(MALFORMED.replace("SUMMARY)", f"{summary})")))
        result = await peer.finish_of(grant)
        assert result.outcome == runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, result
        assert result.summary_json == ""
        assert result.logged_artifacts == ["artifacts/good/versions/v0"]
        output, *notes = peer.output(grant).decode().splitlines()
        assert output == "done"
        if problem:
            assert notes.pop(0).startswith(f"towline: its summary is left out: it {problem}")
        broken, wrong, refused, empty, link, no_aliases, deep = notes
        assert broken.startswith("towline: the logged artifact 1 is not kept: ")
        assert (
            wrong == "towline: the logged artifact 2 is not kept: its manifest has ['x'] where a word belongs"
        )
        assert (
            "the logged artifact 3 is not kept: " in refused and "'artifacts/a b' is not the name" in refused
        )
        assert empty == "towline: the artifact artifacts/empty is not kept: it has no files"
        assert link == "towline: 'link' is not kept: only files and folders are"
        assert no_aliases.endswith("6 is not kept: its manifest has 5 where a list of aliases belongs")
        assert deep.endswith("7 is not kept: its manifest nests deeper than 64")
        assert result.log_size == len(peer.output(grant))


async def test_manifests_that_do_not_end_are_not_held(place: Place, peer: LeasePeer) -> None:
    program = """
import os, pathlib
for number in range(70):
    folder = pathlib.Path(os.environ["TOWLINE_ARTIFACTS"], str(number))
    folder.mkdir()
    (folder / "manifest.json").write_text(" " * 256 * 1024)
"""
    async with place.registry():
        await place.start_agent()
        result = await peer.finish_of(await peer.grant(python_spec(program)))
        assert result.failure.cause == runs_pb2.FAILURE_CAUSE_CONTROL_PLANE
        assert result.exit_code == 0
        assert "put metadata into files" in result.failure.message


async def test_an_agent_killed_while_it_keeps_results_makes_them_once(place: Place, peer: LeasePeer) -> None:
    async with place.registry():
        pass
    await place.start_agent()
    # Two contents under one name: each is a version, and only one.
    second = "pathlib.Path('/tmp/model/more').touch()\nrun.log_artifact('/tmp/model', type='model')\n"
    grant = await peer.grant(python_spec(LOGS + second))
    await peer.state_of(grant, runs_pb2.RUN_STATE_STOPPING)
    place.agent.kill()
    async with place.registry() as registry:
        place.agent.start()
        result = await peer.finish_of(grant)
        assert result.logged_artifacts == ["artifacts/model/versions/v0", "artifacts/model/versions/v1"]
        assert json.loads(result.summary_json)["accuracy"] == 0.5
        request = artifacts_pb2.ListArtifactVersionsRequest(parent="artifacts/model")
        assert len((await registry.artifacts.ListArtifactVersions(request)).artifact_versions) == 2


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
