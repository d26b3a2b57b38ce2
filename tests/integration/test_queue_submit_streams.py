"""Submissions by the batch and by the stream: order, back-pressure, queues that change meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import text

from towline.service.postgres import connecting, transaction
from towline.v1 import docker_pb2, jobs_pb2, queues_pb2, runs_pb2
from towline_testing.errors import refusal
from towline_testing.queue import QueueService, new_id, queue_service
from towline_testing.registry import Registry, registry_service, registry_settings
from towline_testing.waiting import eventually_async

JOB = "jobs/work"
VERSION = f"{JOB}/versions/v0"
QUEUE = "queues/default"


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        image = jobs_pb2.ImageSource(reference="debian:12")
        await service.create(JOB, jobs_pb2.JobSpec(image=image, entrypoint=["true"], config_json='{"n": ""}'))
        yield service


@pytest.fixture
async def queue(database_url: str, registry: Registry) -> AsyncIterator[QueueService]:
    async with queue_service(database_url, registry.address) as service:
        await service.create_queue()
        yield service


def batch(*titles: str, **fields: Any) -> runs_pb2.StreamSubmitRunsRequest:
    runs = [
        runs_pb2.RunSubmission(**({"job": VERSION, "queue": QUEUE, "display_name": title} | fields))
        for title in titles
    ]
    return runs_pb2.StreamSubmitRunsRequest(request_id=new_id(), runs=runs)


async def streamed(
    queue: QueueService, batches: Sequence[runs_pb2.StreamSubmitRunsRequest]
) -> tuple[list[list[str]], grpc.aio.AioRpcError | None]:
    """Send batches, and return the names in each answer and what ended the stream."""
    answers: list[list[str]] = []
    call = queue.runs.StreamSubmitRuns(iter(batches), timeout=30)
    try:
        async for answer in call:
            answers += [list(answer.runs)]
    except grpc.aio.AioRpcError as error:
        return answers, error
    return answers, None


async def titles(queue: QueueService) -> list[str]:
    """Return the display names of all runs, in the order of their places."""
    page = await queue.runs.ListRuns(runs_pb2.ListRunsRequest(page_size=1000))
    runs = [await queue.get(run.name) for run in page.runs]
    return [run.display_name for run in sorted(runs, key=lambda run: run.queue_position)]


@asynccontextmanager
async def locked(database_url: str) -> AsyncIterator[None]:
    """Keep submissions to the queue from being committed while the block runs."""
    async with connecting(database_url) as engine, transaction(engine) as connection:
        await connection.execute(text("SELECT FROM queue.queues FOR UPDATE"))
        yield


async def sql(database_url: str, statement: str) -> Any:
    async with connecting(database_url) as engine, transaction(engine) as connection:
        return (await connection.execute(text(statement))).scalar_one()


async def test_a_stream_is_answered_and_queued_in_its_order(queue: QueueService) -> None:
    batches = [batch(*(f"{number}-{each}" for each in range(3))) for number in range(12)]
    answers, error = await streamed(queue, batches)
    assert error is None
    assert [len(names) for names in answers] == [3] * 12
    assert len({name for names in answers for name in names}) == 36
    assert await titles(queue) == [f"{number}-{each}" for number in range(12) for each in range(3)]
    assert (await queue.get(answers[4][1])).display_name == "4-1"


async def test_batches_sent_again_are_queued_once(queue: QueueService) -> None:
    batches = [batch("a", "b"), batch("c")]
    first, _ = await streamed(queue, batches)
    again, error = await streamed(queue, [*batches, batch("d"), batches[0]])
    assert error is None
    assert again[:2] == first
    assert again[3] == first[0]
    assert sorted(await titles(queue)) == ["a", "b", "c", "d"]
    batches[1].runs[0].author = "eve"
    answers, error = await streamed(queue, batches)
    assert answers == first[:1]
    assert error is not None
    assert "REQUEST_ID_REUSED" in str((await refusal(_raised(error))).reason)


@pytest.mark.parametrize(
    ("wrong", "reason", "named"),
    [
        ({"queue": "q"}, "INVALID_FIELD", "runs[0].queue"),
        ({"config_json": "["}, "INVALID_CONFIG", "runs[0].config_json"),
        ({"queue": "queues/none"}, "QUEUE_NOT_FOUND", "runs[0].queue"),
        ({"job": "jobs/none"}, "JOB_NOT_FOUND", "runs[0].job"),
    ],
)
async def test_the_first_wrong_batch_ends_a_stream_after_the_answers_before_it(
    queue: QueueService, wrong: dict[str, str], reason: str, named: str
) -> None:
    answers, error = await streamed(queue, [batch("a"), batch("b"), batch("c", **wrong), batch("d")])
    assert len(answers) == 2
    assert error is not None
    problem = await refusal(_raised(error))
    assert problem.reason == reason
    assert named in problem.message
    assert await titles(queue) == ["a", "b"]


async def _raised(error: Exception) -> None:
    raise error


async def test_a_stream_is_read_no_further_than_a_few_batches(queue: QueueService, database_url: str) -> None:
    large = [batch("x", config_json=f'{{"n": "{"x" * 1_000_000}"}}') for _ in range(60)]
    call = queue.runs.StreamSubmitRuns(timeout=60)
    written = 0

    async def write() -> None:
        nonlocal written
        for each in large:
            await call.write(each)
            written += 1
        await call.done_writing()

    async with asyncio.TaskGroup() as group:
        async with locked(database_url):
            group.create_task(write())

            async def stands_still() -> bool:
                before = written
                await asyncio.wait([group.create_task(_few_calls(queue))])
                return before == written > 0

            await eventually_async(stands_still)
            # What the service holds, and what is on its way in buffers and in the transport's window.
            assert written < 45
        assert len([answer async for answer in call]) == 60
    assert written == 60


async def _few_calls(queue: QueueService) -> None:
    for _ in range(50):  # others are served meanwhile
        await queue.queues.GetQueue(queues_pb2.GetQueueRequest(name=QUEUE))


async def test_what_waits_at_the_same_time_is_committed_together(
    queue: QueueService, database_url: str
) -> None:
    await queue.submit(VERSION)  # opens connections and fills what is remembered
    async with asyncio.TaskGroup() as group, locked(database_url):
        calls = [group.create_task(queue.submit(VERSION)) for _ in range(60)]

        async def waiting() -> bool:
            blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return int(await sql(database_url, blocked)) >= 1

        await eventually_async(waiting)
        await _few_calls(queue)
    assert len({call.result().name for call in calls}) == 60
    commits = await sql(database_url, "SELECT count(DISTINCT xmin::text) FROM queue.runs")
    assert commits <= 10


async def test_one_that_comes_twice_at_a_time_and_one_refused_leave_the_others_alone(
    queue: QueueService, database_url: str
) -> None:
    twice, other = _one(), _one()
    async with asyncio.TaskGroup() as group, locked(database_url):
        calls = [group.create_task(_name(queue, request)) for request in [twice, other] * 10]
        await _few_calls(queue)
    assert len({call.result() for call in calls}) == 2
    assert await sql(database_url, "SELECT count(*) FROM queue.runs") == 2


async def _name(queue: QueueService, request: runs_pb2.SubmitRunRequest) -> str:
    return (await queue.runs.SubmitRun(request)).run.name


async def update(queue: QueueService, spec: queues_pb2.QueueSpec) -> None:
    request = queues_pb2.UpdateQueueRequest(request_id=new_id(), name=QUEUE, spec=spec)
    await queue.queues.UpdateQueue(request)


SIZED = queues_pb2.QueueSpec(
    docker=docker_pb2.DockerTemplate(memory="{{memory}}"),
    variables=[queues_pb2.TemplateVariable(name="memory", default_json='"1GiB"')],
)


async def test_what_another_replica_makes_of_a_queue_counts_at_once(
    queue: QueueService, registry: Registry, database_url: str
) -> None:
    async with queue_service(database_url, registry.address) as replica:
        await queue.submit(VERSION)
        with pytest.raises(grpc.aio.AioRpcError):
            await queue.submit(VERSION, variables={"memory": '"2GiB"'})
        await update(replica, SIZED)
        # Refused by what is remembered, and right by what is there.
        assert (await queue.submit(VERSION, variables={"memory": '"2GiB"'})).variables == {"memory": '"2GiB"'}
        await update(replica, queues_pb2.QueueSpec(limits=_an_hour()))
        # Right by what is remembered, and refused by what is there.
        error = await refusal(queue.runs.SubmitRun(_one(variables={"memory": '"2GiB"'})))
        assert error.reason == "INVALID_VARIABLE"
        assert (await queue.submit(VERSION)).limits == _an_hour()


async def test_a_new_queue_of_the_same_name_counts_at_once(
    queue: QueueService, registry: Registry, database_url: str
) -> None:
    async with queue_service(database_url, registry.address) as replica:
        # Each has the same number of changes behind it.
        for spec in (queues_pb2.QueueSpec(limits=_an_hour()), queues_pb2.QueueSpec()):
            await delete(replica)
            await replica.create_queue(QUEUE, spec)
            assert (await queue.submit(VERSION)).limits == spec.limits
        ended = (await queue.runs.ListRuns(runs_pb2.ListRunsRequest())).runs[0].name
        await delete(replica)
        assert (await refusal(queue.runs.SubmitRun(_one()))).reason == "QUEUE_NOT_FOUND"
        retry = runs_pb2.RetryRunRequest(request_id=new_id(), name=ended)
        assert (await refusal(queue.runs.RetryRun(retry))).reason == "QUEUE_NOT_FOUND"


def _one(**fields: Any) -> runs_pb2.SubmitRunRequest:
    run = runs_pb2.RunSubmission(**({"job": VERSION, "queue": QUEUE} | fields))
    return runs_pb2.SubmitRunRequest(request_id=new_id(), run=run)


async def delete(queue: QueueService) -> None:
    for run in (await queue.runs.ListRuns(runs_pb2.ListRunsRequest())).runs:
        await queue.runs.CancelRun(runs_pb2.CancelRunRequest(request_id=new_id(), name=run.name))
    await queue.queues.DeleteQueue(queues_pb2.DeleteQueueRequest(request_id=new_id(), name=QUEUE))


def _an_hour() -> runs_pb2.TimeLimits:
    limits = runs_pb2.TimeLimits()
    limits.max_wait.seconds = 3600
    return limits


async def test_runs_of_one_kind_share_what_is_stored(queue: QueueService, database_url: str) -> None:
    submissions = [
        runs_pb2.RunSubmission(
            job=VERSION, queue=QUEUE, config_json=f'{{"n": "{n}"}}', display_name=n, labels={"n": n}
        )
        for n in map(str, range(20))
    ]
    request = runs_pb2.SubmitRunsRequest(request_id=new_id(), runs=submissions)
    names = (await queue.runs.SubmitRuns(request)).runs
    await queue.submit(VERSION)
    assert await sql(database_url, "SELECT count(*) FROM queue.launch_specs") == 1
    run = await queue.get(names[7])
    assert (run.config_json, run.display_name, run.labels) == ('{"n": "7"}', "7", {"n": "7"})
