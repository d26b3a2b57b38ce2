"""A registry and a queue service that know each other, and the rounds in which the registry ends versions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.service.postgres import connecting, transaction
from towline.v1 import artifacts_pb2
from towline_registry.expiry import Expiry, ExpiryTimes
from towline_registry.queue_client import run_references
from towline_registry.stale_uses import StaleUses
from towline_testing.queue import QueueService, queue_service
from towline_testing.registry import Registry, registry_service, registry_settings

GRACE = timedelta(days=7)


@dataclass(frozen=True)
class Both:
    """A registry and a queue service that know each other, and the registry's database."""

    registry: Registry
    queue: QueueService
    engine: AsyncEngine

    async def round(self, after: timedelta = timedelta()) -> None:
        """Make the registry's round as it would be made after some time."""
        async with run_references(self.queue.address) as runs:
            times = ExpiryTimes(every=timedelta(minutes=1), grace=GRACE)
            stale_uses = StaleUses(self.engine, runs)
            await Expiry(self.engine, runs, stale_uses, times, lambda: datetime.now(UTC) + after).round()

    async def rows(self, statement: str) -> list[tuple[object, ...]]:
        async with transaction(self.engine) as connection:
            return [tuple(row) for row in await connection.execute(text(statement))]

    async def record(self, versions: list[str], *runs: str, job_version: str = "") -> None:
        await self.registry.artifacts.RecordArtifactUses(
            artifacts_pb2.RecordArtifactUsesRequest(
                runs=runs, job_version=job_version, artifact_versions=versions
            )
        )


@asynccontextmanager
async def both_services(database_url: str, folder: Path) -> AsyncIterator[Both]:
    address = f"unix:{folder}/registry.sock"
    async with (
        connecting(database_url) as engine,
        queue_service(database_url, address) as queue,
        registry_service(
            registry_settings(database_url, folder, listen=address, queue_address=queue.address)
        ) as registry,
    ):
        await queue.create_queue()
        yield Both(registry, queue, engine)
