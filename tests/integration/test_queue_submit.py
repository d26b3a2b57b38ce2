"""Submissions over gRPC, with the real registry behind them."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from towline.v1 import docker_pb2, jobs_pb2, queues_pb2, runs_pb2
from towline_testing.errors import refusal
from towline_testing.queue import QueueService, new_id, queue_service
from towline_testing.registry import Registry, registry_service, registry_settings

JOB = "jobs/digits"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        await service.create(JOB, job_spec())
        yield service


@pytest.fixture
async def queue(database_url: str, registry: Registry) -> AsyncIterator[QueueService]:
    async with queue_service(database_url, registry.address) as service:
        await service.create_queue()
        yield service


def job_spec(reference: str = "python:3.11") -> jobs_pb2.JobSpec:
    return jobs_pb2.JobSpec(
        image=jobs_pb2.ImageSource(reference=reference),
        entrypoint=["python", "train.py"],
        config_json='{"lr": 0.1, "model": {"layers": [8]}}',
        hints=jobs_pb2.ResourceHints(gpus=1),
    )


def submission(**fields: object) -> runs_pb2.RunSubmission:
    return runs_pb2.RunSubmission(**({"job": JOB, "queue": "queues/default"} | fields))


def one(**fields: object) -> runs_pb2.SubmitRunRequest:
    return runs_pb2.SubmitRunRequest(request_id=new_id(), run=submission(**fields))


def many(*runs: runs_pb2.RunSubmission) -> runs_pb2.SubmitRunsRequest:
    return runs_pb2.SubmitRunsRequest(request_id=new_id(), runs=runs)


async def listed(queue: QueueService) -> list[runs_pb2.Run]:
    return list((await queue.runs.ListRuns(runs_pb2.ListRunsRequest())).runs)


async def test_a_submission_becomes_a_run_with_all_that_was_given(queue: QueueService) -> None:
    run = await queue.submit(
        JOB,
        config_json='{"model": {"layers": [4, 4]}}',
        priority=runs_pb2.PRIORITY_HIGH,
        display_name="first try",
        author="ann",
        labels={"team": "vision"},
    )
    assert run == await queue.get(run.name)
    assert json.loads(run.config_json) == {"lr": 0.1, "model": {"layers": [4, 4]}}
    assert run.job_version == f"{JOB}/versions/v0"
    assert run.state == runs_pb2.RUN_STATE_QUEUED
    assert run.state_detail == "no agent serves this queue"
    assert run.queue_position == 0
    assert (run.queue, run.priority, run.display_name, run.author, run.labels) == (
        "queues/default",
        runs_pb2.PRIORITY_HIGH,
        "first try",
        "ann",
        {"team": "vision"},
    )
    assert run.create_time.seconds > 0
    assert not run.HasField("end_time")


async def test_what_is_left_out_gets_a_default(queue: QueueService) -> None:
    run = await queue.submit(JOB)
    assert run.priority == runs_pb2.PRIORITY_MEDIUM
    assert run.display_name == f"digits-{run.name[-4:]}"
    second = await queue.submit(f"{JOB}/versions/v0")
    assert second.queue_position == 1
    assert second.state_detail == "no agent serves this queue; 1 run ahead"
    urgent = await queue.submit(JOB, priority=runs_pb2.PRIORITY_CRITICAL)
    assert urgent.queue_position == 0


async def test_a_run_may_wait_for_a_time(queue: QueueService) -> None:
    due, past = Timestamp(), Timestamp()
    due.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    past.FromDatetime(datetime.now(UTC) - timedelta(hours=1))
    run = await queue.submit(JOB, not_before=due)
    assert run.state == runs_pb2.RUN_STATE_SCHEDULED
    assert run.state_detail.startswith("scheduled until 20")
    assert run.queue_position == -1
    assert (await queue.submit(JOB, not_before=past)).state == runs_pb2.RUN_STATE_QUEUED


async def test_more_gpus_than_anybody_has_are_accepted_and_explained(queue: QueueService) -> None:
    spec = queues_pb2.QueueSpec(
        docker=docker_pb2.DockerTemplate(gpus="{{gpus}}"),
        variables=[queues_pb2.TemplateVariable(name="gpus", schema_json='{"type": "integer"}')],
    )
    await queue.create_queue("queues/gpu", spec)
    run = await queue.submit(JOB, queue="queues/gpu", variables={"gpus": "64"})
    assert run.variables == {"gpus": "64"}
    assert run.state_detail == "no agent serves this queue"


async def test_a_repeated_submission_is_one_run(queue: QueueService) -> None:
    request = one()
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(_submit(queue, request)) for _ in range(8)]
    assert len({call.result().name for call in calls}) == 1
    assert len(await listed(queue)) == 1
    request.run.author = "eve"
    assert await refusal(queue.runs.SubmitRun(request)) == (INVALID, "REQUEST_ID_REUSED")


async def _submit(queue: QueueService, request: runs_pb2.SubmitRunRequest) -> runs_pb2.Run:
    return (await queue.runs.SubmitRun(request)).run


async def test_a_repetition_gets_the_first_answer_though_the_alias_moved(
    queue: QueueService, registry: Registry
) -> None:
    request, batch = one(), many(submission(), submission())
    first = await queue.runs.SubmitRun(request)
    first_batch = await queue.runs.SubmitRuns(batch)
    await registry.create(JOB, job_spec("python:3.12"))
    assert await queue.runs.SubmitRun(request) == first
    assert await queue.runs.SubmitRuns(batch) == first_batch
    moved = await queue.submit(JOB)
    assert moved.job_version == f"{JOB}/versions/v1"


async def test_without_the_registry_known_versions_still_work_and_aliases_say_why_not(
    database_url: str, registry: Registry
) -> None:
    async with queue_service(database_url, registry.address) as queue:
        await queue.create_queue()
        request = one()
        first = await queue.runs.SubmitRun(request)
    async with queue_service(database_url, "127.0.0.1:1") as queue:
        assert await queue.runs.SubmitRun(request) == first
        error = await refusal(queue.runs.SubmitRun(one()))
        assert error == (grpc.StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE")
        assert "127.0.0.1:1" in error.message
        await queue.create_queue("queues/other")  # what needs no registry goes on


WRONG = [
    ({"job": "digits"}, "INVALID_FIELD", "run.job"),
    ({"job": "jobs/../x"}, "INVALID_FIELD", "run.job"),
    ({"job": "jobs/digits/versions/"}, "INVALID_FIELD", "run.job"),
    ({"queue": "default"}, "INVALID_FIELD", "run.queue"),
    ({"priority": 9}, "INVALID_FIELD", "run.priority"),
    ({"display_name": "x" * 129}, "INVALID_FIELD", "run.display_name"),
    ({"display_name": "a\0b"}, "INVALID_FIELD", "run.display_name"),
    ({"author": "x" * 257}, "INVALID_FIELD", "run.author"),
    ({"author": "a\nb"}, "INVALID_FIELD", "run.author"),
    ({"labels": {"a": "x\0"}}, "INVALID_FIELD", "run.labels.a"),
    ({"labels": {f"k{n}": "" for n in range(65)}}, "INVALID_FIELD", "run.labels"),
    ({"variables": {f"k{n}": "" for n in range(65)}}, "INVALID_FIELD", "run.variables"),
    ({"not_before": Timestamp(seconds=2**60)}, "INVALID_FIELD", "run.not_before"),
    ({"config_json": "lr: 1"}, "INVALID_CONFIG", "is not JSON"),
    ({"config_json": '{"lrr": 1}'}, "INVALID_CONFIG", "did you mean 'lr'"),
    ({"variables": {"gpus": "2"}}, "INVALID_VARIABLE", "the queue fixes the GPUs"),
]


async def test_a_wrong_submission_is_refused(queue: QueueService) -> None:
    for fields, reason, part in WRONG:
        error = await refusal(queue.runs.SubmitRun(one(**fields)))
        assert error == (INVALID, reason), fields
        assert part in error.message, fields
    assert await listed(queue) == []


async def test_what_is_not_there_is_named(queue: QueueService) -> None:
    missing = grpc.StatusCode.NOT_FOUND
    error = await refusal(queue.runs.SubmitRun(one(job="jobs/none")))
    assert error == (missing, "JOB_NOT_FOUND")
    assert "jobs/none" in error.message
    error = await refusal(queue.runs.SubmitRun(one(job=f"{JOB}/versions/v9")))
    assert error == (missing, "JOB_VERSION_NOT_FOUND")
    error = await refusal(queue.runs.SubmitRun(one(queue="queues/none")))
    assert error == (missing, "QUEUE_NOT_FOUND")
    assert error.metadata == {"queue": "queues/none", "field": "run.queue"}


async def test_many_are_stored_in_the_order_given(queue: QueueService) -> None:
    request = many(*(submission(display_name=str(number)) for number in range(1000)))
    names = list((await queue.runs.SubmitRuns(request)).runs)
    assert names == sorted(names)
    assert len(set(names)) == 1000
    assert (await queue.get(names[123])).display_name == "123"
    assert (await queue.get(names[123])).queue_position == 123
    page = await queue.runs.ListRuns(runs_pb2.ListRunsRequest(page_size=1000))
    assert [run.display_name for run in page.runs] == [str(number) for number in reversed(range(1000))]


WRONG_AMONG_MANY = [
    ({"queue": "q"}, "INVALID_FIELD", "runs[2].queue"),
    ({"config_json": "["}, "INVALID_CONFIG", "runs[2].config_json"),
    ({"config_json": '{"model": {"layers": ["x"]}}'}, "INVALID_CONFIG", "runs[2].model.layers[0]"),
    ({"variables": {"x": "1"}}, "INVALID_VARIABLE", "runs[2].x"),
    ({"job": "jobs/none"}, "JOB_NOT_FOUND", "runs[2].job"),
    ({"queue": "queues/none"}, "QUEUE_NOT_FOUND", "runs[2].queue"),
]


async def test_one_wrong_run_stops_all_and_is_named(queue: QueueService) -> None:
    for wrong, reason, part in WRONG_AMONG_MANY:
        error = await refusal(queue.runs.SubmitRuns(many(submission(), submission(), submission(**wrong))))
        assert error.reason == reason
        assert part in error.message
    for count in (0, 1001):
        error = await refusal(queue.runs.SubmitRuns(many(*[submission()] * count)))
        assert error == (INVALID, "INVALID_FIELD")
    assert await listed(queue) == []


async def test_too_many_submissions_at_once_are_told_when_to_come_back(
    database_url: str, registry: Registry
) -> None:
    async with queue_service(database_url, registry.address, max_submits_in_flight=1) as queue:
        await queue.create_queue()
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(_outcome(queue)) for _ in range(16)]
        refused = [call.result() for call in calls if call.result() is not None]
    assert 1 <= len(refused) <= 15
    for error in refused:
        assert error == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert error.retry_after is not None
        assert error.retry_after >= timedelta(seconds=1)


async def _outcome(queue: QueueService) -> object:
    try:
        await queue.runs.SubmitRun(one())
    except grpc.aio.AioRpcError as error:
        return await refusal(_raised(error))
    return None


async def _raised(error: Exception) -> None:
    raise error


async def test_no_run_slips_into_a_queue_that_is_being_deleted(queue: QueueService) -> None:
    for number in range(10):
        name = f"queues/race-{number}"
        await queue.create_queue(name)
        delete = queues_pb2.DeleteQueueRequest(request_id=new_id(), name=name)
        async with asyncio.TaskGroup() as tasks:
            submits = [tasks.create_task(_reason(queue.runs.SubmitRun(one(queue=name)))) for _ in range(4)]
            deleted = tasks.create_task(_reason(queue.queues.DeleteQueue(delete)))
        reasons = [submit.result() for submit in submits]
        if deleted.result() == "":
            assert set(reasons) == {"QUEUE_NOT_FOUND"}
        else:
            assert deleted.result() == "QUEUE_NOT_EMPTY"
            assert "" in reasons
            assert set(reasons) == {""}


async def _reason(call: "grpc.aio.UnaryUnaryCall[object, object]") -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return (await refusal(_raised(error))).reason
    return ""


async def test_a_queue_with_runs_says_how_many(queue: QueueService) -> None:
    await queue.runs.SubmitRuns(many(submission(), submission()))
    read = (await queue.queues.GetQueue(queues_pb2.GetQueueRequest(name="queues/default"))).queue
    assert read.counts == queues_pb2.QueueCounts(waiting=2)
    delete = queues_pb2.DeleteQueueRequest(request_id=new_id(), name="queues/default")
    error = await refusal(queue.queues.DeleteQueue(delete))
    assert error == (grpc.StatusCode.FAILED_PRECONDITION, "QUEUE_NOT_EMPTY")
    assert error.metadata == {"queue": "queues/default", "waiting": "2", "active": "0"}


async def test_a_paused_queue_accepts_and_explains(queue: QueueService) -> None:
    await queue.queues.PauseQueue(queues_pb2.PauseQueueRequest(request_id=new_id(), name="queues/default"))
    assert (await queue.submit(JOB)).state_detail == "the queue is paused"
