"""The gRPC server of a service: health, reflection, errors, an orderly end."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import _async as health_aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from towline.errors import Unavailable
from towline.rpc.channel import MAX_MESSAGE_BYTES
from towline.service.interceptor import ErrorInterceptor
from towline.service.settings import ServiceSettings

__all__ = ["serving", "stop_requested"]

_log = logging.getLogger(__name__)

_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    # Clients ping every 20 s, also when idle; grpc's default calls that "too many pings".
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # When a service comes back, thousands of agents open their streams at once; beyond the first limit
    # grpc refuses some by chance, beyond the second all.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
)


@asynccontextmanager
async def serving(
    settings: ServiceSettings,
    register: Callable[[grpc.aio.Server], Sequence[str]],
    options: Sequence[tuple[str, int]] = (),
) -> AsyncIterator[str]:
    """Serve until the block is left, then let calls in progress end within the grace period.

    Args:
        settings: Where to listen and how long to wait at the end.
        register: Adds the servicers and returns the full names of their services.
        options: Further options of gRPC's.

    Yields:
        The address listened on, with the real port.

    Raises:
        Unavailable: The address cannot be listened on; reason ADDRESS_IN_USE.
    """
    # Two services must never share a port unnoticed.
    reuse = ("grpc.so_reuseport", int(settings.share_address))
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=(*_OPTIONS, *options, reuse))
    names = [*register(server), health.SERVICE_NAME]
    status = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
    address = _bind(server, settings.listen)
    await server.start()
    for name in ["", *names]:
        await status.set(name, health_pb2.HealthCheckResponse.SERVING)
    if settings.address_file:
        _publish(settings.address_file, address)
    _log.info("listening on %s", address)
    try:
        yield address
    finally:
        await status.enter_graceful_shutdown()
        await server.stop(settings.stop_grace_s)


def _bind(server: grpc.aio.Server, listen: str) -> str:
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise Unavailable(
            f"cannot listen on {listen}: the port is in use or the address is not this machine's; "
            "give another with the LISTEN setting",
            reason="ADDRESS_IN_USE",
        ) from error
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


def _publish(file: Path, address: str) -> None:
    """Write the address so that a reader sees all of it or nothing."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(address)
    partial.replace(file)


@asynccontextmanager
async def stop_requested() -> AsyncIterator[asyncio.Event]:
    """Give an event that is set by SIGTERM or SIGINT while the block runs."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    try:
        yield event
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
