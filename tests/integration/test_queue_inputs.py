"""What runs read and what they tell of their results, over gRPC, with the real registry behind it."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from towline.v1 import artifacts_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_testing.errors import refusal
from towline_testing.fake_agent import SUCCEEDED, FakeAgent, failed
from towline_testing.queue import QueueService, new_id, queue_service
from towline_testing.registry import Registry, digest_of, registry_service, registry_settings

JOB = "jobs/train"
NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@dataclass(frozen=True)
class World:
    """A registry with artifacts and a job that reads one, and a queue service."""

    registry: Registry
    queue: QueueService

    async def artifact(self, name: str, files: dict[str, bytes]) -> str:
        for data in files.values():
            await self.registry.upload(data)
        request = artifacts_pb2.CreateArtifactVersionRequest(
            request_id=new_id(),
            artifact=f"artifacts/{name}",
            type="dataset",
            files=[
                artifacts_pb2.ArtifactFile(path=path, digest=digest_of(data), size_bytes=len(data))
                for path, data in sorted(files.items())
            ],
        )
        return (await self.registry.artifacts.CreateArtifactVersion(request)).artifact_version.name

    async def readers(self, version: str) -> set[str]:
        """Return the runs that the registry has as readers of a version."""
        request = artifacts_pb2.GetArtifactLineageRequest(name=version)
        lineage = await self.registry.artifacts.GetArtifactLineage(request)
        return {use.run for use in lineage.uses if use.run}

    async def retry(self, run: str) -> runs_pb2.Run:
        request = runs_pb2.RetryRunRequest(request_id=new_id(), name=run)
        return (await self.queue.runs.RetryRun(request)).run

    async def names(self) -> list[str]:
        return [run.name for run in (await self.queue.runs.ListRuns(runs_pb2.ListRunsRequest())).runs]

    async def finished(self, run: str, result: leases_pb2.AttemptResult) -> runs_pb2.Run:
        """Have an agent bring a run to its end."""
        async with FakeAgent().connected(self.queue.channel) as session:
            await session.beat()
            grant = await session.next_accepted()
            assert grant.spec.run == run
            await session.finish(grant, result)
        return await self.queue.get(run)


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with (
        registry_service(registry_settings(database_url, tmp_path)) as registry,
        queue_service(database_url, registry.address) as queue,
    ):
        world = World(registry, queue)
        await world.artifact("set", {"a": b"0"})
        await registry.create(JOB, job_spec())
        await queue.create_queue()
        yield world


def job_spec() -> jobs_pb2.JobSpec:
    return jobs_pb2.JobSpec(
        image=jobs_pb2.ImageSource(reference="python:3.11"),
        entrypoint=["train"],
        config_json='{"lr": 0.1}',
        input_schema_json='{"properties": {"lr": {"type": "number"}}}',
        inputs=[jobs_pb2.ArtifactInput(name="data", artifact="artifacts/set/versions/latest")],
    )


def inputs(run: runs_pb2.Run | runs_pb2.LaunchSpec) -> dict[str, str]:
    return {one.name: one.artifact for one in run.inputs}


def one(**fields: object) -> runs_pb2.SubmitRunRequest:
    submission = runs_pb2.RunSubmission(**({"job": JOB, "queue": "queues/default"} | fields))
    return runs_pb2.SubmitRunRequest(request_id=new_id(), run=submission)


async def test_an_alias_is_the_version_it_was_when_the_run_was_submitted(world: World) -> None:
    first = await world.queue.submit(JOB)
    assert inputs(first) == {"data": "artifacts/set/versions/v0"}
    assert inputs(await world.queue.get(first.name)) == inputs(first)
    newer = await world.artifact("set", {"a": b"1"})
    second = await world.queue.submit(JOB)
    assert inputs(second) == {"data": newer}
    assert await world.readers("artifacts/set/versions/v0") == {first.name}
    assert await world.readers(newer) == {second.name}

    ended = await world.finished(first.name, failed())
    again = await world.retry(ended.name)
    assert inputs(again) == inputs(first)
    assert await world.readers("artifacts/set/versions/v0") == {first.name, again.name}


async def test_a_submission_puts_others_in_their_place_and_adds_some(world: World) -> None:
    other = await world.artifact("other", {"b": b"2"})
    given = {"data": "artifacts/other/versions/latest", "more": "artifacts/set/versions/v0"}
    run = await world.queue.submit(JOB, inputs=given)
    expected = {"data": other, "more": "artifacts/set/versions/v0"}
    assert inputs(run) == expected
    async with FakeAgent().connected(world.queue.channel) as session:
        await session.beat()
        grant = await session.next_accepted()
        assert inputs(grant.spec) == expected


async def test_runs_of_one_request_read_one_version_and_are_noted_together(world: World) -> None:
    submission = runs_pb2.RunSubmission(job=JOB, queue="queues/default")
    plain = runs_pb2.RunSubmission(job="jobs/plain", queue="queues/default")
    spec = job_spec()
    del spec.inputs[:]
    await world.registry.create("jobs/plain", spec)
    request = runs_pb2.SubmitRunsRequest(request_id=new_id(), runs=[submission, plain, submission])
    runs = list((await world.queue.runs.SubmitRuns(request)).runs)
    assert await world.readers("artifacts/set/versions/v0") == {runs[0], runs[2]}
    # A repetition is what it was, and notes no run that there never was.
    assert list((await world.queue.runs.SubmitRuns(request)).runs) == runs
    assert await world.readers("artifacts/set/versions/v0") == {runs[0], runs[2]}


async def test_all_that_is_not_there_is_named_by_its_path(world: World) -> None:
    wrong = {"data": "artifacts/none/versions/v0", "x": "artifacts/set/versions/v9"}
    error = await refusal(world.queue.runs.SubmitRun(one(inputs=wrong)))
    assert error == (NOT_FOUND, "ARTIFACT_NOT_FOUND")
    first, second = error.message.split("; run.")
    assert first.startswith("run.inputs[data]: ") and "artifacts/none" in first
    assert second.startswith("inputs[x]: ") and "v9" in second
    assert error.metadata["field"] == "run.inputs[data]"

    good = runs_pb2.RunSubmission(job=JOB, queue="queues/default")
    bad = runs_pb2.RunSubmission(job=JOB, queue="queues/default", inputs={"x": wrong["x"]})
    request = runs_pb2.SubmitRunsRequest(request_id=new_id(), runs=[good, bad])
    error = await refusal(world.queue.runs.SubmitRuns(request))
    assert error == (NOT_FOUND, "ARTIFACT_VERSION_NOT_FOUND")
    assert error.metadata["field"] == "runs[1].inputs[x]"
    assert await world.names() == []


@pytest.mark.one_postgres
@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"a/b": "artifacts/set/versions/v0"}, "run.inputs"),
        ({"": "artifacts/set/versions/v0"}, "run.inputs"),
        ({"x": "set:v0"}, "run.inputs[x]"),
        ({"x": "artifacts/set"}, "run.inputs[x]"),
        ({f"x{n}": "artifacts/set/versions/v0" for n in range(65)}, "run.inputs"),
        ({f"x{n}": "artifacts/set/versions/v0" for n in range(64)}, "run.inputs"),  # and that of the job
    ],
)
async def test_inputs_of_no_valid_form_are_refused(world: World, given: dict[str, str], path: str) -> None:
    error = await refusal(world.queue.runs.SubmitRun(one(inputs=given)))
    assert error == (INVALID, "INVALID_FIELD")
    assert error.message.startswith(f"{path}: ")


async def test_a_version_that_was_deleted_since_it_was_known_is_not_there(world: World) -> None:
    gone = await world.artifact("gone", {"c": b"3"})
    await world.artifact("gone", {"c": b"4"})  # "latest" must not hold it
    wrong = one(inputs={"x": gone}, config_json='{"lr": "fast"}')
    assert await refusal(world.queue.runs.SubmitRun(wrong)) == (INVALID, "INVALID_CONFIG")
    await world.registry.artifacts.DeleteArtifactVersion(
        artifacts_pb2.DeleteArtifactVersionRequest(request_id=new_id(), name=gone)
    )
    error = await refusal(world.queue.runs.SubmitRun(one(inputs={"x": gone})))
    assert error.code == NOT_FOUND and error.metadata["field"] == "run.inputs[x]"
    assert await world.names() == []


async def test_without_the_registry_nothing_that_reads_is_queued(world: World, database_url: str) -> None:
    async with queue_service(database_url, "127.0.0.1:1") as queue:
        error = await refusal(queue.runs.SubmitRun(one(job=f"{JOB}/versions/v0")))
        assert error == (grpc.StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE")
    assert await world.names() == []


def told(**fields: object) -> leases_pb2.AttemptResult:
    result = leases_pb2.AttemptResult(**fields)
    result.MergeFrom(SUCCEEDED)
    return result


async def test_a_run_shows_what_it_told_of_its_results(world: World) -> None:
    run = await world.queue.submit(JOB)
    summary, model = '{"acc": 0.93, "by class": {"\u00e9": 1}}', "artifacts/model/versions/v0"
    ended = await world.finished(run.name, told(summary_json=summary, logged_artifacts=[model]))
    assert ended.state == runs_pb2.RUN_STATE_SUCCEEDED
    assert ended.summary_json == summary and list(ended.logged_artifacts) == [model]
    (listed,) = (await world.queue.runs.ListRuns(runs_pb2.ListRunsRequest())).runs
    assert listed.summary_json == summary and list(listed.logged_artifacts) == [model]
    assert not ended.state_detail

    silent = await world.queue.submit(JOB)
    ended = await world.finished(silent.name, SUCCEEDED)
    assert not ended.summary_json and not ended.logged_artifacts


@pytest.mark.parametrize(
    ("summary", "problem"),
    [
        ("[1]", "is no JSON object"),
        ('{"a": NaN}', "is not JSON"),
        (json.dumps({"a": "x" * 65536}), "larger than 65536 bytes"),
    ],
)
async def test_a_summary_that_is_none_is_left_out_and_fails_nothing(
    world: World, summary: str, problem: str
) -> None:
    run = await world.queue.submit(JOB)
    logged = ["artifacts/model/versions/v0", "model:v0"]
    ended = await world.finished(run.name, told(summary_json=summary, logged_artifacts=logged))
    assert ended.state == runs_pb2.RUN_STATE_SUCCEEDED
    assert not ended.summary_json and list(ended.logged_artifacts) == logged[:1]
    assert problem in ended.state_detail
    assert "1 of its logged artifacts are left out" in ended.state_detail
