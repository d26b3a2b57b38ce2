"""QueueService over gRPC on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from towline.v1 import docker_pb2, queues_pb2
from towline_testing.errors import refusal
from towline_testing.queue import QueueService, new_id, queue_service


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[QueueService]:
    async with queue_service(database_url) as service:
        yield service


def spec(**fields: object) -> queues_pb2.QueueSpec:
    return queues_pb2.QueueSpec(docker=docker_pb2.DockerTemplate(memory="1GiB"), **fields)


async def test_a_queue_is_made_read_changed_paused_and_removed(queue: QueueService) -> None:
    made = await queue.create_queue("queues/a", spec(description="for a"))
    assert made.spec == spec(description="for a")
    assert not made.paused
    assert made.etag
    assert made.create_time.seconds > 0
    assert made.counts == queues_pb2.QueueCounts()

    read = (await queue.queues.GetQueue(queues_pb2.GetQueueRequest(name="queues/a"))).queue
    assert read == made

    update = queues_pb2.UpdateQueueRequest(
        request_id=new_id(), name="queues/a", spec=spec(description="new"), etag=made.etag
    )
    changed = (await queue.queues.UpdateQueue(update)).queue
    assert changed.spec.description == "new"
    assert changed.etag != made.etag

    stale = queues_pb2.UpdateQueueRequest(request_id=new_id(), name="queues/a", spec=spec(), etag=made.etag)
    assert await refusal(queue.queues.UpdateQueue(stale)) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    stale.request_id, stale.etag = new_id(), ""
    assert (await queue.queues.UpdateQueue(stale)).queue.spec == spec()

    pause = queues_pb2.PauseQueueRequest(request_id=new_id(), name="queues/a")
    assert (await queue.queues.PauseQueue(pause)).queue.paused
    resume = queues_pb2.ResumeQueueRequest(request_id=new_id(), name="queues/a")
    assert not (await queue.queues.ResumeQueue(resume)).queue.paused

    delete = queues_pb2.DeleteQueueRequest(request_id=new_id(), name="queues/a")
    await queue.queues.DeleteQueue(delete)
    await queue.queues.DeleteQueue(delete)  # repeated: the first answer
    missing = await refusal(queue.queues.GetQueue(queues_pb2.GetQueueRequest(name="queues/a")))
    assert missing == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")


async def test_a_queue_without_a_resource_gets_an_empty_docker_template(queue: QueueService) -> None:
    made = await queue.create_queue("queues/a")
    assert made.spec.WhichOneof("resource") == "docker"


async def test_an_etag_does_not_fit_a_later_queue_of_the_same_name(queue: QueueService) -> None:
    first = await queue.create_queue("queues/a", spec())
    await queue.queues.DeleteQueue(queues_pb2.DeleteQueueRequest(request_id=new_id(), name="queues/a"))
    await queue.create_queue("queues/a", spec())
    update = queues_pb2.UpdateQueueRequest(request_id=new_id(), name="queues/a", spec=spec(), etag=first.etag)
    assert await refusal(queue.queues.UpdateQueue(update)) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")


async def test_a_repeated_request_gets_the_first_answer(queue: QueueService) -> None:
    request = queues_pb2.CreateQueueRequest(request_id=new_id(), name="queues/a", spec=spec())
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(_call(queue, request)) for _ in range(8)]
    assert len({call.result().SerializeToString(deterministic=True) for call in calls}) == 1

    other = queues_pb2.CreateQueueRequest(request_id=request.request_id, name="queues/b", spec=spec())
    code = grpc.StatusCode.INVALID_ARGUMENT
    assert await refusal(queue.queues.CreateQueue(other)) == (code, "REQUEST_ID_REUSED")
    other.request_id = "not a uuid"
    assert await refusal(queue.queues.CreateQueue(other)) == (code, "INVALID_FIELD")
    request.request_id = new_id()
    exists = await refusal(queue.queues.CreateQueue(request))
    assert exists == (grpc.StatusCode.ALREADY_EXISTS, "QUEUE_EXISTS")


async def _call(
    queue: QueueService, request: queues_pb2.CreateQueueRequest
) -> queues_pb2.CreateQueueResponse:
    return await queue.queues.CreateQueue(request)


async def test_queues_are_listed_by_name_page_by_page(queue: QueueService) -> None:
    for name in ("b", "a-1", "c", "a", "b2"):
        await queue.create_queue(f"queues/{name}")
    listed: list[str] = []
    request = queues_pb2.ListQueuesRequest(page_size=2)
    while True:
        page = await queue.queues.ListQueues(request)
        listed += [item.name for item in page.queues]
        assert len(page.queues) <= 2
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == ["queues/a", "queues/a-1", "queues/b", "queues/b2", "queues/c"]
    request.page_token = "x"
    wrong = await refusal(queue.queues.ListQueues(request))
    assert wrong == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_a_wrong_name_is_refused(queue: QueueService) -> None:
    wrong = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    for name in ("", "a", "queues/", "queues/A", "queues/-a", "queues/" + "a" * 64, "queues/a\n"):
        assert await refusal(queue.queues.CreateQueue(queues_pb2.CreateQueueRequest(name=name))) == wrong
        assert await refusal(queue.queues.GetQueue(queues_pb2.GetQueueRequest(name=name))) == wrong
        assert await refusal(queue.queues.DeleteQueue(queues_pb2.DeleteQueueRequest(name=name))) == wrong


async def test_a_wrong_spec_is_refused_with_everything_that_is_wrong(queue: QueueService) -> None:
    bad = queues_pb2.QueueSpec(docker=docker_pb2.DockerTemplate(memory="{{m}}", cpus="x"))
    create = queues_pb2.CreateQueueRequest(request_id=new_id(), name="queues/a", spec=bad)
    error = await refusal(queue.queues.CreateQueue(create))
    assert error == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TEMPLATE")
    assert set(error.metadata) == {"docker.memory", "docker.cpus"}
    assert "{{m}} is not declared" in error.message

    await queue.create_queue("queues/a", spec())
    update = queues_pb2.UpdateQueueRequest(request_id=new_id(), name="queues/a", spec=bad)
    assert (await refusal(queue.queues.UpdateQueue(update))).reason == "INVALID_TEMPLATE"
    policy = queues_pb2.LeasePolicy(heartbeat_interval=Duration(seconds=60))
    for wrong in (spec(description="x" * 1025), spec(lease_policy=policy)):
        update = queues_pb2.UpdateQueueRequest(request_id=new_id(), name="queues/a", spec=wrong)
        assert (await refusal(queue.queues.UpdateQueue(update))).reason == "INVALID_FIELD"
    read = (await queue.queues.GetQueue(queues_pb2.GetQueueRequest(name="queues/a"))).queue
    assert read.spec == spec()


async def test_a_queue_that_is_not_there_is_said_so(queue: QueueService) -> None:
    for method in ("UpdateQueue", "DeleteQueue", "PauseQueue", "ResumeQueue"):
        request = getattr(queues_pb2, f"{method}Request")(request_id=new_id(), name="queues/none")
        error = await refusal(getattr(queue.queues, method)(request))
        assert error == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")
        assert error.metadata == {"queue": "queues/none"}
