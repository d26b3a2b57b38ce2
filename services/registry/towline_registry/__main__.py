"""The registry service: `python -m towline_registry`. This module only wires."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc

from towline.service.postgres import connecting, migrate
from towline.service.process import run
from towline.service.server import serving, stop_requested
from towline.v1 import artifacts_pb2_grpc, jobs_pb2_grpc
from towline_registry.blobs.spool import Spool
from towline_registry.blobs.store import open_blob_store
from towline_registry.blobs.transfers import Transfers
from towline_registry.servicers.artifacts import ArtifactServicer
from towline_registry.servicers.blobs import BlobServicer
from towline_registry.servicers.jobs import JobServicer
from towline_registry.settings import RegistrySettings
from towline_registry.storage.tables import SCHEMA

__all__ = ["main", "running"]

_log = logging.getLogger(__name__)


@asynccontextmanager
async def running(settings: RegistrySettings) -> AsyncIterator[str]:
    """Run the service until the block is left; give the address it listens on.

    Raises:
        InvalidArgument: A setting is wrong.
        Unavailable: PostgreSQL or the object store cannot be reached, or the address not be listened on.
    """
    store = await open_blob_store(settings.blob_url)
    spool = Spool(settings.spool_dir)
    dropped = await asyncio.to_thread(spool.drop_abandoned, timedelta(days=settings.spool_days))
    if dropped:
        _log.info("dropped %d uploads that nobody went on with", dropped)
    async with connecting(settings.database_url, pool_size=settings.database_pool_size) as engine:
        await migrate(engine, schema=SCHEMA, scripts="towline_registry:migrations")

        def register(server: grpc.aio.Server) -> Sequence[str]:
            transfers = Transfers(engine, store, spool)
            jobs_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(engine), server)
            artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(ArtifactServicer(engine), server)
            artifacts_pb2_grpc.add_BlobServiceServicer_to_server(BlobServicer(engine, transfers), server)
            return [f"towline.v1.{service}" for service in ("JobService", "ArtifactService", "BlobService")]

        async with serving(settings, register) as address:
            yield address


async def _serve(settings: RegistrySettings) -> None:
    async with stop_requested() as stop, running(settings):
        await stop.wait()


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    return run(RegistrySettings, _serve)


if __name__ == "__main__":
    sys.exit(main())
