"""The queue service: `python -m towline_queue`. This module only wires."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import grpc

from towline.service.postgres import connecting, migrate
from towline.service.process import run
from towline.service.server import serving, stop_requested
from towline.v1 import fleet_pb2_grpc, leases_pb2_grpc, logs_pb2_grpc, queues_pb2_grpc, runs_pb2_grpc
from towline_queue.leasing import Leasing
from towline_queue.log_reader import LogReader
from towline_queue.log_writer import LogWriter
from towline_queue.prebuilding import Prebuilds
from towline_queue.recipes import Recipes
from towline_queue.registry_client import registry_client
from towline_queue.servicers.fleet import FleetServicer
from towline_queue.servicers.leases import LeaseServicer
from towline_queue.servicers.logs import LogServicer
from towline_queue.servicers.queues import QueueServicer
from towline_queue.servicers.runs import RunServicer
from towline_queue.settings import QueueSettings
from towline_queue.signals import Signals
from towline_queue.storage.claims import Claims
from towline_queue.storage.database import opening
from towline_queue.storage.lease_store import PostgresLeaseStore
from towline_queue.storage.notifications import Notifications
from towline_queue.storage.tables import SCHEMA
from towline_queue.storing import Storing
from towline_queue.submitting import Submitter

__all__ = ["running"]

# gRPC measures a connection's bandwidth by pings that follow what it reads, to widen its window. Those of
# thousands of idle agents are a sixth of all that the service does, so the window is wide from the start.
_GRPC: Final = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024 * 1024))


@asynccontextmanager
async def running(settings: QueueSettings) -> AsyncIterator[str]:
    """Run the service until the block is left; give the address it listens on.

    Raises:
        Unavailable: PostgreSQL cannot be reached, or the address cannot be listened on.
    """
    signals = Signals()
    async with (
        connecting(settings.database_url, pool_size=settings.database_pool_size // 2) as engine,
        opening(engine, size=settings.database_pool_size - settings.database_pool_size // 2) as database,
        registry_client(settings.registry_address) as registry,
    ):
        await migrate(engine, schema=SCHEMA, scripts="towline_queue:migrations")
        claims = Claims(database)
        leasing = Leasing(PostgresLeaseStore(database, claims), signals, settings)
        log_writer = LogWriter(engine, signals)
        storing = Storing(database, claims, leasing.dispatcher, signals)

        def register(server: grpc.aio.Server) -> Sequence[str]:
            queues_pb2_grpc.add_QueueServiceServicer_to_server(QueueServicer(engine, signals), server)
            recipes = Recipes(database, registry)
            submitter = Submitter(
                engine,
                recipes,
                storing,
                leasing.dispatcher.has_room,
                most_in_flight=settings.max_submits_in_flight,
            )
            prebuilds = Prebuilds(engine, registry, submitter)
            runs = RunServicer(engine, signals, submitter, prebuilds)
            runs_pb2_grpc.add_RunServiceServicer_to_server(runs, server)
            logs = LogServicer(log_writer, LogReader(engine, signals))
            logs_pb2_grpc.add_LogServiceServicer_to_server(logs, server)
            leases_pb2_grpc.add_LeaseServiceServicer_to_server(LeaseServicer(leasing), server)
            fleet_pb2_grpc.add_FleetServiceServicer_to_server(FleetServicer(engine, signals), server)
            services = ("QueueService", "RunService", "LogService", "LeaseService", "FleetService")
            return [f"towline.v1.{service}" for service in services]

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(leasing.run(), name="leasing"),
                group.create_task(log_writer.run(), name="log writer"),
                group.create_task(storing.run(), name="storing"),
                group.create_task(Notifications(engine, signals).run(), name="notifications"),
            ]
            try:
                async with serving(settings, register, _GRPC) as address:
                    try:
                        yield address
                    finally:  # before the server ends the streams
                        await leasing.say_goodbye()
            finally:
                for task in tasks:
                    task.cancel()


async def _serve(settings: QueueSettings) -> None:
    async with stop_requested() as stop, running(settings):
        await stop.wait()


if __name__ == "__main__":
    sys.exit(run(QueueSettings, _serve))
