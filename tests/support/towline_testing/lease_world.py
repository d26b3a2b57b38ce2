"""A queue service with a job to run and ways to look into its database, for tests of leases."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
from google.protobuf.duration_pb2 import Duration

from towline.v1 import docker_pb2, jobs_pb2, queues_pb2, runs_pb2
from towline_testing.fake_agent import WITHIN_S
from towline_testing.queue import QueueService, new_id, queue_service
from towline_testing.registry import registry_service, registry_settings
from towline_testing.waiting import eventually_async

JOB = "jobs/work/versions/v0"


@dataclass
class LeaseWorld:
    """A queue service, the address of its registry, and its database."""

    service: QueueService
    database_url: str
    registry_address: str

    @asynccontextmanager
    async def another(self, **settings: Any) -> AsyncIterator[QueueService]:
        """Run another service on the same database."""
        async with queue_service(self.database_url, self.registry_address, **(FAST | settings)) as service:
            yield service

    async def submit(self, *, gpus: int = 0, **fields: Any) -> str:
        """Submit one run and return its name."""
        variables = {"gpus": str(gpus)} if gpus else {}
        return (await self.service.submit(JOB, variables=variables, **fields)).name

    async def submit_many(self, count: int, queue: str = "queues/default") -> list[str]:
        """Submit runs in one call and return their names."""
        runs = [runs_pb2.RunSubmission(job=JOB, queue=queue)] * count
        request = runs_pb2.SubmitRunsRequest(request_id=new_id(), runs=runs)
        return list((await self.service.runs.SubmitRuns(request)).runs)

    async def cancel(self, run: str) -> runs_pb2.Run:
        request = runs_pb2.CancelRunRequest(request_id=new_id(), name=run)
        return (await self.service.runs.CancelRun(request)).run

    async def get(self, run: str) -> runs_pb2.Run:
        return await self.service.get(run)

    async def reaches(self, run: str, state: int, within: float = WITHIN_S) -> runs_pb2.Run:
        """Wait until a run is in a state."""

        async def there() -> runs_pb2.Run | None:
            found = await self.get(run)
            return found if found.state == state else None

        found = await eventually_async(there, within=within)
        assert found is not None
        return found

    async def sql(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Run one statement on the service's database."""
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()


FAST = {"upkeep_every_s": 0.05, "grant_reply_within_s": 10.0}


@asynccontextmanager
async def lease_world(
    database_url: str, folder: Path, *, policy: queues_pb2.LeasePolicy | None = None, **settings: Any
) -> AsyncIterator[LeaseWorld]:
    """Run a registry with one job and a queue service with one queue, "queues/default"."""
    async with (
        registry_service(registry_settings(database_url, folder)) as registry,
        queue_service(database_url, registry.address, **(FAST | settings)) as service,
    ):
        image = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference="debian:12"), entrypoint=["true"])
        await registry.create("jobs/work", image)
        await service.create_queue(spec=queue_spec(policy))
        yield LeaseWorld(service, database_url, registry.address)


def queue_spec(policy: queues_pb2.LeasePolicy | None = None) -> queues_pb2.QueueSpec:
    """Make the spec of a queue whose submissions choose their number of GPUs."""
    gpus = queues_pb2.TemplateVariable(name="gpus", schema_json='{"type": "integer"}', default_json="0")
    return queues_pb2.QueueSpec(
        docker=docker_pb2.DockerTemplate(gpus="{{gpus}}"), variables=[gpus], lease_policy=policy
    )


def policy(
    *, heartbeat_s: float = 0.1, disconnected_s: float = 0.5, lost_s: float = 1.0
) -> queues_pb2.LeasePolicy:
    """Make a lease policy of short times."""

    def duration(seconds: float) -> Duration:
        made = Duration()
        made.FromTimedelta(timedelta(seconds=seconds))
        return made

    return queues_pb2.LeasePolicy(
        heartbeat_interval=duration(heartbeat_s),
        disconnected_after=duration(disconnected_s),
        lost_after=duration(lost_s),
        stop_grace=duration(2),
    )
