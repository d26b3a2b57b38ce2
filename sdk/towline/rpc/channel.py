"""Channels to Towline's services."""

from typing import Final

import grpc

__all__ = ["MAX_CHUNK_BYTES", "MAX_MESSAGE_BYTES", "open_channel"]

# Largest message either side takes; the protos bound each field well below it.
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
# Largest piece of a blob or log in one message, as the protos say.
MAX_CHUNK_BYTES: Final = 1024 * 1024

OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Measured: without this one a frozen server is noticed after 63 s instead of 5.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A service that restarts is back within seconds; grpc's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """Open a channel to `address` ("host:port" or "unix:PATH"); it connects when first used."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)
