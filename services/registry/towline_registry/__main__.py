"""The registry service: `python -m towline_registry`. This module only wires."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc

from towline.rpc.memory import keep_freed_memory
from towline.service.postgres import connecting, migrate
from towline.service.process import run
from towline.service.server import serving, stop_requested
from towline.v1 import artifacts_pb2_grpc, images_pb2_grpc, jobs_pb2_grpc
from towline_registry.blobs.collector import CollectionTimes, Collector
from towline_registry.blobs.spool import Spool
from towline_registry.blobs.store import open_blob_store
from towline_registry.blobs.transfers import Transfers
from towline_registry.expiry import Expiry, ExpiryTimes
from towline_registry.prebuilds import prebuilds_by
from towline_registry.queue_client import run_references
from towline_registry.servicers.artifacts import ArtifactServicer
from towline_registry.servicers.blobs import BlobServicer
from towline_registry.servicers.images import ImageServicer
from towline_registry.servicers.jobs import JobServicer
from towline_registry.settings import RegistrySettings
from towline_registry.stale_uses import StaleUses
from towline_registry.storage.tables import SCHEMA

__all__ = ["main", "running"]


@asynccontextmanager
async def running(settings: RegistrySettings) -> AsyncIterator[str]:
    """Run the service until the block is left; give the address it listens on.

    Raises:
        InvalidArgument: A setting is wrong.
        Unavailable: PostgreSQL or the object store cannot be reached, or the address not be listened on.
    """
    store = await open_blob_store(settings.blob_url)
    spool = Spool(settings.spool_dir)
    times = CollectionTimes(
        grace=timedelta(hours=settings.collect_after_hours),
        every=timedelta(hours=settings.collect_every_hours),
        spool=timedelta(days=settings.spool_days),
    )
    expiry_times = ExpiryTimes(
        every=timedelta(minutes=settings.expire_every_minutes),
        grace=timedelta(days=settings.keep_deleted_days),
    )
    async with (
        connecting(settings.database_url, pool_size=settings.database_pool_size) as engine,
        run_references(settings.queue_address) as runs,
        prebuilds_by(settings.queue_address) as prebuilds,
    ):
        await migrate(engine, schema=SCHEMA, scripts="towline_registry:migrations")

        stale_uses = StaleUses(engine, runs)

        def register(server: grpc.aio.Server) -> Sequence[str]:
            transfers = Transfers(engine, store, spool, times.grace)
            jobs_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(engine, runs, prebuilds), server)
            artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(
                ArtifactServicer(engine, stale_uses), server
            )
            artifacts_pb2_grpc.add_BlobServiceServicer_to_server(BlobServicer(transfers), server)
            images_pb2_grpc.add_ImageServiceServicer_to_server(ImageServicer(engine), server)
            services = ("JobService", "ArtifactService", "BlobService", "ImageService")
            return [f"towline.v1.{service}" for service in services]

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(Collector(engine, store, spool, times).run(), name="collector"),
                group.create_task(Expiry(engine, runs, stale_uses, expiry_times).run(), name="expiry"),
            ]
            if prebuilds:
                tasks.append(group.create_task(prebuilds.run(), name="prebuilds"))
            try:
                async with serving(settings, register) as address:
                    yield address
            finally:
                for task in tasks:
                    task.cancel()


async def _serve(settings: RegistrySettings) -> None:
    keep_freed_memory()
    async with stop_requested() as stop, running(settings):
        await stop.wait()


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    return run(RegistrySettings, _serve)


if __name__ == "__main__":
    sys.exit(main())
