"""A build session: how BuildKit, in the middle of a build, asks its client for secrets.

It asks by gRPC, and its client is the server: over a connection that the engine was asked to hand over.
"""

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import grpc
from aiodocker import Docker
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from multidict import CIMultiDict

from towline_agent.engine.buildkit_pb2 import SecretRequest, SecretResponse
from towline_agent.engine.errors import translated

__all__ = ["build_session"]

_SECRETS: Final = "moby.buildkit.secrets.v1.Secrets"
_OFFERED: Final = (f"/{_SECRETS}/GetSecret", "/grpc.health.v1.Health/Check")
_OFFERS: Final = "X-Docker-Expose-Session-Grpc-Method"


@asynccontextmanager
async def build_session(client: Docker, secrets: Mapping[str, Path]) -> AsyncIterator[str]:
    """Give the id of a session for one build, in which BuildKit may ask for some secrets, and for no others.

    Args:
        client: The engine that BuildKit is in.
        secrets: Id → file; it is read when it is asked for, and its content goes nowhere else.
    """
    session = uuid.uuid4().hex
    headers = CIMultiDict(
        {
            "Connection": "Upgrade",
            "Upgrade": "h2c",
            "X-Docker-Expose-Session-Uuid": session,
            "X-Docker-Expose-Session-Name": "towline",
        }
    )
    for method in _OFFERED:
        headers.add(_OFFERS, method)
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(_serving(secrets))
        with translated("image"):
            asking = client._query("session", "POST", headers=headers, timeout=None, read_until_eof=False)
            response = await stack.enter_async_context(asking)
            stack.callback(response.close)
            _join(response, serving)
        yield session


@asynccontextmanager
async def _serving(secrets: Mapping[str, Path]) -> AsyncIterator["_End"]:
    """Serve secrets to whoever has the other end of one connection, which this gives."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([_secrets_handler(secrets)])
    state = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    await state.set("", health_pb2.HealthCheckResponse.SERVING)
    async with AsyncExitStack() as stack:
        # In a folder that only its owner can enter, and without a name as soon as it is connected.
        with tempfile.TemporaryDirectory(prefix="towline-session-") as folder:
            path = f"{folder}/socket"
            server.add_insecure_port(f"unix:{path}")
            await server.start()
            stack.push_async_callback(server.stop, None)
            transport, end = await asyncio.get_running_loop().create_unix_connection(_End, path)
        stack.callback(transport.close)
        yield end


def _secrets_handler(secrets: Mapping[str, Path]) -> grpc.GenericRpcHandler:
    async def get(request: SecretRequest, context: "grpc.aio.ServicerContext[Any, Any]") -> SecretResponse:
        if request.id not in secrets:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the agent has no secret {request.id!r}")
        return SecretResponse(data=await asyncio.to_thread(secrets[request.id].read_bytes))

    method = grpc.unary_unary_rpc_method_handler(
        get, SecretRequest.FromString, SecretResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(_SECRETS, {"GetSecret": method})


def _join(response: aiohttp.ClientResponse, serving: "_End") -> None:
    """Have bytes pass between a connection that was handed over and the server of secrets.

    Nothing slows either side down: what they say are a few questions, and the answers.
    """
    connection = response.connection
    if connection is None or connection.protocol is None or connection.transport is None:
        raise ConnectionResetError("the connection of a build session is closed")
    serving.join(connection.transport)
    connection.protocol.set_parser(_Questions(serving), None)


class _End(asyncio.Protocol):
    """The client's end of a connection to the server of secrets."""

    def __init__(self) -> None:
        self._server: asyncio.WriteTransport
        self._target: asyncio.WriteTransport | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        if self._target is None:  # a server says that it is one before it is asked
            self._early += data
        else:
            self._target.write(data)

    def join(self, target: asyncio.WriteTransport) -> None:
        """Pass on to there what the server has said and says."""
        self._target = target
        target.write(self._early)

    def ask(self, data: bytes) -> None:
        """Pass on what BuildKit says."""
        self._server.write(data)

    def leave(self) -> None:
        """Say that BuildKit says no more."""
        self._server.close()


class _Questions:
    """Passes on what comes over the connection; it is what aiohttp calls a parser of a payload."""

    def __init__(self, serving: _End) -> None:
        self._serving = serving

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Pass some bytes on; nothing of them is left for another parser."""
        self._serving.ask(data)
        return False, b""

    def feed_eof(self) -> None:
        """Say that no more come."""
        self._serving.leave()
