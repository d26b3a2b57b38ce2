"""Queues."""

from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from towline.client import shorthand
from towline.client.calls import PAGE_SIZE, Service, listed, new_request_id
from towline.v1 import queues_pb2
from towline.v1.queues_pb2_grpc import QueueServiceStub

if TYPE_CHECKING:  # exists for type checkers only
    from towline.v1.queues_pb2_grpc import QueueServiceAsyncStub

__all__ = ["Queues"]


class Queues:
    """Where runs wait."""

    def __init__(self, queue: Service) -> None:
        self._queue = queue

    @cached_property
    def _stub(self) -> "QueueServiceAsyncStub":
        return QueueServiceStub(self._queue.channel)

    async def create(self, name: str, spec: queues_pb2.QueueSpec) -> queues_pb2.Queue:
        """Make a queue; AlreadyExists if there is one of this name."""
        request = queues_pb2.CreateQueueRequest(
            request_id=new_request_id(), name=shorthand.queue(name), spec=spec
        )
        return (await self._queue.call(self._stub.CreateQueue, request)).queue

    async def get(self, name: str) -> queues_pb2.Queue:
        """Get one queue."""
        request = queues_pb2.GetQueueRequest(name=shorthand.queue(name))
        return (await self._queue.call(self._stub.GetQueue, request)).queue

    async def list(self) -> AsyncGenerator[queues_pb2.Queue, None]:
        """Walk through all queues, by name."""

        async def fetch(token: str) -> tuple[Sequence[queues_pb2.Queue], str]:
            request = queues_pb2.ListQueuesRequest(page_size=PAGE_SIZE, page_token=token)
            page = await self._queue.call(self._stub.ListQueues, request)
            return page.queues, page.next_page_token

        async for item in listed(fetch):
            yield item

    async def update(self, name: str, spec: queues_pb2.QueueSpec, etag: str = "") -> queues_pb2.Queue:
        """Replace a queue's spec; Aborted (ETAG_MISMATCH) if `etag` is given and no longer its own."""
        request = queues_pb2.UpdateQueueRequest(
            request_id=new_request_id(), name=shorthand.queue(name), spec=spec, etag=etag
        )
        return (await self._queue.call(self._stub.UpdateQueue, request)).queue

    async def delete(self, name: str) -> None:
        """Remove a queue; FailedPrecondition (QUEUE_NOT_EMPTY) while runs in it have not ended."""
        request = queues_pb2.DeleteQueueRequest(request_id=new_request_id(), name=shorthand.queue(name))
        await self._queue.call(self._stub.DeleteQueue, request)

    async def pause(self, name: str) -> queues_pb2.Queue:
        """Stop handing out runs."""
        request = queues_pb2.PauseQueueRequest(request_id=new_request_id(), name=shorthand.queue(name))
        return (await self._queue.call(self._stub.PauseQueue, request)).queue

    async def resume(self, name: str) -> queues_pb2.Queue:
        """Hand out runs again."""
        request = queues_pb2.ResumeQueueRequest(request_id=new_request_id(), name=shorthand.queue(name))
        return (await self._queue.call(self._stub.ResumeQueue, request)).queue
