"""QueueService over gRPC."""

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline import names
from towline.errors import InvalidArgument
from towline.requests import pages
from towline.service.postgres import idempotent, transaction
from towline.v1 import queues_pb2, queues_pb2_grpc, runs_pb2
from towline_queue.core import retries
from towline_queue.core.lease_policy import check_policy
from towline_queue.core.limits import check_limits
from towline_queue.core.prebuilds import check_prebuild
from towline_queue.core.template import template_of
from towline_queue.run_views import timestamp
from towline_queue.signals import Signals
from towline_queue.storage import queues
from towline_queue.storage.tables import requests

__all__ = ["QueueServicer"]

_MAX_DESCRIPTION: Final = 1024
_LISTED: Final = b"queues"


class QueueServicer(queues_pb2_grpc.QueueServiceServicer):
    """Translates between QueueService and the queues in PostgreSQL.

    Args:
        engine: The database.
        signals: Gets an announcement when a queue hands out again.
    """

    def __init__(self, engine: AsyncEngine, signals: Signals) -> None:
        self._engine = engine
        self._signals = signals

    async def CreateQueue(
        self, request: queues_pb2.CreateQueueRequest, context: Any
    ) -> queues_pb2.CreateQueueResponse:
        """Make a queue."""
        name, spec = names.queue(request.name, "name"), _checked(request.spec)

        async def apply(connection: AsyncConnection) -> queues_pb2.CreateQueueResponse:
            return queues_pb2.CreateQueueResponse(queue=_message(await queues.create(connection, name, spec)))

        return await idempotent(self._engine, requests, request, queues_pb2.CreateQueueResponse, apply)

    async def GetQueue(
        self, request: queues_pb2.GetQueueRequest, context: Any
    ) -> queues_pb2.GetQueueResponse:
        """Return one queue."""
        name = names.queue(request.name, "name")
        async with transaction(self._engine) as connection:
            return queues_pb2.GetQueueResponse(queue=_message(await queues.get(connection, name)))

    async def ListQueues(
        self, request: queues_pb2.ListQueuesRequest, context: Any
    ) -> queues_pb2.ListQueuesResponse:
        """Return a page of queues by name."""
        size = pages.page_size(request.page_size)
        after = pages.page_start(_LISTED, request.page_token, str)
        async with transaction(self._engine) as connection:
            found = await queues.page(connection, after=after, size=size + 1)
        token = pages.next_token(_LISTED, found[size - 1].name) if len(found) > size else ""
        return queues_pb2.ListQueuesResponse(
            queues=[_message(queue) for queue in found[:size]], next_page_token=token
        )

    async def UpdateQueue(
        self, request: queues_pb2.UpdateQueueRequest, context: Any
    ) -> queues_pb2.UpdateQueueResponse:
        """Replace a queue's spec."""
        name, spec = names.queue(request.name, "name"), _checked(request.spec)

        async def apply(connection: AsyncConnection) -> queues_pb2.UpdateQueueResponse:
            queue = await queues.update_spec(connection, name, spec, request.etag)
            return queues_pb2.UpdateQueueResponse(queue=_message(queue))

        return await idempotent(self._engine, requests, request, queues_pb2.UpdateQueueResponse, apply)

    async def DeleteQueue(
        self, request: queues_pb2.DeleteQueueRequest, context: Any
    ) -> queues_pb2.DeleteQueueResponse:
        """Remove a queue without runs."""
        name = names.queue(request.name, "name")

        async def apply(connection: AsyncConnection) -> queues_pb2.DeleteQueueResponse:
            await queues.delete_empty(connection, name)
            return queues_pb2.DeleteQueueResponse()

        return await idempotent(self._engine, requests, request, queues_pb2.DeleteQueueResponse, apply)

    async def PauseQueue(
        self, request: queues_pb2.PauseQueueRequest, context: Any
    ) -> queues_pb2.PauseQueueResponse:
        """Stop handing out."""
        name = names.queue(request.name, "name")

        async def apply(connection: AsyncConnection) -> queues_pb2.PauseQueueResponse:
            queue = await queues.set_paused(connection, name, True)
            return queues_pb2.PauseQueueResponse(queue=_message(queue))

        return await idempotent(self._engine, requests, request, queues_pb2.PauseQueueResponse, apply)

    async def ResumeQueue(
        self, request: queues_pb2.ResumeQueueRequest, context: Any
    ) -> queues_pb2.ResumeQueueResponse:
        """Hand out again."""
        name = names.queue(request.name, "name")

        async def apply(connection: AsyncConnection) -> queues_pb2.ResumeQueueResponse:
            queue = await queues.set_paused(connection, name, False)
            return queues_pb2.ResumeQueueResponse(queue=_message(queue))

        response = await idempotent(self._engine, requests, request, queues_pb2.ResumeQueueResponse, apply)
        self._signals.queue_ready(name)
        return response


def _checked(spec: queues_pb2.QueueSpec) -> bytes:
    """Return the spec as it is stored; InvalidArgument where the template or another field is wrong."""
    if len(spec.description) > _MAX_DESCRIPTION:
        raise InvalidArgument.field(
            "spec.description",
            f"has {len(spec.description)} characters; at most {_MAX_DESCRIPTION} can be kept",
        )
    check_policy(spec.lease_policy)
    check_limits(spec.limits, "spec.limits")
    retries.policy_of(spec.retry_policy, runs_pb2.RetryPolicy(), "spec.retry_policy")
    complete = queues_pb2.QueueSpec()
    complete.CopyFrom(spec)
    complete.docker.SetInParent()
    content = complete.SerializeToString(deterministic=True)
    check_prebuild(spec.prebuild, template_of(content), "spec.prebuild")
    return content


def _message(queue: queues.StoredQueue) -> queues_pb2.Queue:
    return queues_pb2.Queue(
        name=queue.name,
        spec=queues_pb2.QueueSpec.FromString(queue.spec),
        paused=queue.paused,
        etag=queue.etag,
        create_time=timestamp(queue.create_time),
        counts=queues_pb2.QueueCounts(waiting=queue.counts.waiting, active=queue.counts.active),
    )
