"""The client for programs that use asyncio."""

import asyncio
from types import TracebackType
from typing import Self

from towline.client.artifacts import Artifacts
from towline.client.blobs import Blobs
from towline.client.calls import Service
from towline.client.fleet import Fleet
from towline.client.jobs import Jobs
from towline.client.logs import Logs
from towline.client.queues import Queues
from towline.client.runs import Runs
from towline.runtime.endpoints import Endpoints

__all__ = ["AsyncClient"]


class AsyncClient:
    """Towline's services, for one event loop. Connects when first used; close it, or use `async with`.

    Args:
        endpoints: Where the services are; found with `Endpoints.discover()` where none are given.

    Raises:
        Unavailable: No endpoints are given and none are found; reason NO_ENDPOINTS.
    """

    def __init__(self, endpoints: Endpoints | None = None) -> None:
        self.endpoints = endpoints or Endpoints.discover()
        self._registry = Service("the registry", self.endpoints.registry)
        self._queue = Service("the queue service", self.endpoints.queue)
        self.jobs = Jobs(self._registry)
        self.blobs = Blobs(self._registry)
        self.artifacts = Artifacts(self._registry, self.blobs)
        self.queues = Queues(self._queue)
        self.runs = Runs(self._queue, self.artifacts)
        self.logs = Logs(self._queue, self.runs)
        self.fleet = Fleet(self._queue)

    async def close(self) -> None:
        """End the connections; calls in progress are cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._registry.close())
            group.create_task(self._queue.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
