"""Runs that only build: what they need, and queues that have new job versions built by themselves."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from towline.v1 import docker_pb2, jobs_pb2, queues_pb2, runs_pb2
from towline_testing.both_services import Both, both_services
from towline_testing.errors import refusal
from towline_testing.queue import new_id
from towline_testing.registry import registry_service, registry_settings
from towline_testing.waiting import eventually_async

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
IMAGE = docker_pb2.DockerImageOptions(base_image="cuda:{{cuda}}", pull_policy=docker_pb2.PULL_POLICY_NEVER)


@pytest.fixture
async def both(database_url: str, tmp_path: Path) -> AsyncIterator[Both]:
    async with both_services(database_url, tmp_path) as services:
        yield services


def job(tag: str = "1") -> jobs_pb2.JobSpec:
    return jobs_pb2.JobSpec(
        image=jobs_pb2.ImageSource(reference=f"digits:{tag}"),
        config_json='{"lr": 0.1}',
        hints=jobs_pb2.ResourceHints(gpus=2),
    )


def gpu_queue(cuda_default: str = "", *prebuild: str) -> queues_pb2.QueueSpec:
    """A queue whose template wants two values, one of them for the image."""
    return queues_pb2.QueueSpec(
        docker=docker_pb2.DockerTemplate(gpus="{{gpus}}", memory="{{memory}}", image=IMAGE),
        variables=[
            queues_pb2.TemplateVariable(name="gpus", schema_json='{"type": "integer"}', default_json="1"),
            queues_pb2.TemplateVariable(name="memory"),
            queues_pb2.TemplateVariable(name="cuda", default_json=cuda_default),
        ],
        prebuild=prebuild,
    )


async def runs_of(both: Both, queue: str) -> list[runs_pb2.Run]:
    request = runs_pb2.ListRunsRequest(filter=runs_pb2.RunFilter(queue=queue))
    return list((await both.queue.runs.ListRuns(request)).runs)


async def test_a_build_needs_what_its_image_needs_and_no_more(both: Both) -> None:
    await both.queue.create_queue("queues/gpus", gpu_queue())
    await both.registry.create("jobs/digits", job())
    refused = await refusal(both.queue.submit("jobs/digits", "queues/gpus", build_only=True))
    assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VARIABLE")
    assert refused.metadata == {"cuda": "the queue wants a value for it"}
    run = await both.queue.submit(
        "jobs/digits", "queues/gpus", build_only=True, variables={"cuda": '"12.4"', "gpus": "2"}
    )
    assert run.build_only
    assert run.display_name == f"build-digits-{run.name[-4:]}"
    # An agent without a GPU may build it.
    assert run.state_detail == "no agent serves this queue"
    await both.queue.runs.CancelRun(runs_pb2.CancelRunRequest(request_id=new_id(), name=run.name))
    again = await both.queue.runs.RetryRun(runs_pb2.RetryRunRequest(request_id=new_id(), name=run.name))
    assert (again.run.build_only, again.run.retry_of) == (True, run.name)


async def test_a_build_reads_nothing(both: Both) -> None:
    await both.registry.create("jobs/digits", job())
    inputs = {"data": "artifacts/data/versions/v0"}
    refused = await refusal(both.queue.submit("jobs/digits", build_only=True, inputs=inputs))
    assert refused == INVALID
    assert "run.inputs: a run that only builds reads nothing" in refused.message


async def test_new_versions_are_built_once_for_each_queue_that_asks(both: Both) -> None:
    await both.queue.create_queue("queues/gpus", gpu_queue('"12.4"', "digits", "train-*"))
    await both.queue.create_queue("queues/all", queues_pb2.QueueSpec(prebuild=["*"]))
    made = (await both.registry.create("jobs/digits", job(), author="ann")).job_version
    (run,) = await eventually_async(lambda: runs_of(both, "queues/gpus"))
    assert (run.job_version, run.build_only, run.author) == (made.name, True, "ann")
    assert run.priority == runs_pb2.PRIORITY_LOW
    (other,) = await runs_of(both, "queues/all")
    assert await runs_of(both, "queues/default") == []

    again = runs_pb2.PrebuildJobVersionRequest(job_version="jobs/digits/versions/latest")
    for _ in range(2):
        assert (await both.queue.runs.PrebuildJobVersion(again)).runs == [other.name, run.name]
    assert not (await both.registry.create("jobs/digits", job())).created
    await both.registry.create("jobs/letters", job())
    await eventually_async(lambda: _count(both, "queues/all", 2))
    assert await runs_of(both, "queues/gpus") == [run]


async def _count(both: Both, queue: str, count: int) -> bool:
    return len(await runs_of(both, queue)) == count


async def test_a_queue_that_cannot_take_it_is_passed(both: Both) -> None:
    unnamed = docker_pb2.DockerImageOptions(base_image="base:${author}")
    template = docker_pb2.DockerTemplate(image=unnamed)
    await both.queue.create_queue("queues/a", queues_pb2.QueueSpec(docker=template, prebuild=["*"]))
    await both.queue.create_queue("queues/b", queues_pb2.QueueSpec(prebuild=["*"]))
    wanted = runs_pb2.PrebuildJobVersionRequest(job_version="jobs/digits/versions/v0")
    unknown = await refusal(both.queue.runs.PrebuildJobVersion(wanted))
    assert unknown == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    await both.registry.create("jobs/digits", job(), author="ann lee")  # which no tag can hold
    (run,) = await eventually_async(lambda: runs_of(both, "queues/b"))
    assert (await both.queue.runs.PrebuildJobVersion(wanted)).runs == [run.name]
    assert await runs_of(both, "queues/a") == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (queues_pb2.QueueSpec(prebuild=["jobs/a"]), "spec.prebuild[0]: 'jobs/a' is no pattern of job names"),
        (queues_pb2.QueueSpec(prebuild=["a", ""]), "spec.prebuild[1]: '' is no pattern"),
        (queues_pb2.QueueSpec(prebuild=["a"] * 65), "spec.prebuild: 65 patterns; at most 64"),
        (gpu_queue("", "a"), "spec.prebuild: the template's image needs a value for cuda"),
    ],
)
async def test_what_a_queue_cannot_ask_for(both: Both, spec: queues_pb2.QueueSpec, message: str) -> None:
    refused = await refusal(both.queue.create_queue("queues/other", spec))
    assert refused == INVALID
    assert message in refused.message


async def test_a_version_is_made_while_no_queue_service_answers(database_url: str, tmp_path: Path) -> None:
    settings = registry_settings(database_url, tmp_path, queue_address="127.0.0.1:1")
    async with registry_service(settings) as registry:
        for tag in "12":
            assert (await registry.create("jobs/digits", job(tag))).created
