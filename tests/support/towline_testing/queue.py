"""The real queue service in the test's own event loop, with clients for all its services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc

from towline.rpc.channel import open_channel
from towline.v1 import (
    fleet_pb2_grpc,
    leases_pb2_grpc,
    logs_pb2_grpc,
    queues_pb2,
    queues_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
)
from towline_queue.__main__ import running
from towline_queue.settings import QueueSettings


@dataclass(frozen=True)
class QueueService:
    """A running queue service and what a client needs to call it."""

    address: str
    channel: grpc.aio.Channel

    @property
    def queues(self) -> "queues_pb2_grpc.QueueServiceAsyncStub":
        return queues_pb2_grpc.QueueServiceStub(self.channel)

    @property
    def runs(self) -> "runs_pb2_grpc.RunServiceAsyncStub":
        return runs_pb2_grpc.RunServiceStub(self.channel)

    @property
    def logs(self) -> "logs_pb2_grpc.LogServiceAsyncStub":
        return logs_pb2_grpc.LogServiceStub(self.channel)

    @property
    def leases(self) -> "leases_pb2_grpc.LeaseServiceAsyncStub":
        return leases_pb2_grpc.LeaseServiceStub(self.channel)

    @property
    def fleet(self) -> "fleet_pb2_grpc.FleetServiceAsyncStub":
        return fleet_pb2_grpc.FleetServiceStub(self.channel)

    async def create_queue(
        self, name: str = "queues/default", spec: queues_pb2.QueueSpec | None = None
    ) -> queues_pb2.Queue:
        request = queues_pb2.CreateQueueRequest(request_id=new_id(), name=name, spec=spec)
        return (await self.queues.CreateQueue(request)).queue

    async def submit(self, job: str, queue: str = "queues/default", **fields: Any) -> runs_pb2.Run:
        submission = runs_pb2.RunSubmission(job=job, queue=queue, **fields)
        request = runs_pb2.SubmitRunRequest(request_id=new_id(), run=submission)
        return (await self.runs.SubmitRun(request)).run

    async def get(self, run: str) -> runs_pb2.Run:
        return (await self.runs.GetRun(runs_pb2.GetRunRequest(name=run))).run


@asynccontextmanager
async def queue_service(
    database_url: str, registry_address: str = "127.0.0.1:1", **settings: Any
) -> AsyncIterator[QueueService]:
    """Run the service on a free port; `settings` are QueueSettings'. Two on one database are replicas."""
    values = QueueSettings(
        listen="127.0.0.1:0",
        database_url=database_url,
        registry_address=registry_address,
        database_pool_size=settings.pop("database_pool_size", 8),
        stop_grace_s=settings.pop("stop_grace_s", 0),
        **settings,
    )
    async with running(values) as address, open_channel(address) as channel:
        yield QueueService(address, channel)


def new_id() -> str:
    """A fresh request_id."""
    return str(uuid4())
