"""Asking the services how they are."""

import asyncio
import os
from collections.abc import Mapping
from typing import Final

import aiodocker
import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from towline.embedded.layout import Layout
from towline.embedded.summary import Summary
from towline.errors import Unavailable
from towline.rpc.channel import open_channel
from towline.rpc.status import to_error
from towline.v1 import agent_pb2, agent_pb2_grpc

__all__ = ["check_health", "summarise"]

_DEADLINE_S: Final = 5.0
_CONNECTED_WITHIN_S: Final = 5.0


async def check_health(addresses: Mapping[str, str]) -> None:
    """Ask each service over gRPC whether it serves.

    Raises:
        Unavailable: One does not.
    """
    for name, address in addresses.items():
        async with open_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined] # not in its types
            try:
                answer = await check(health_pb2.HealthCheckRequest(), timeout=_DEADLINE_S)
            except grpc.RpcError as error:
                raise to_error(error, peer=f"{name} ({address})") from None
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable(f"{name} ({address}) does not serve yet", reason="NOT_SERVING")


async def summarise(layout: Layout, addresses: Mapping[str, str]) -> Summary:
    """Ask the agent what it has, and the engine for its version; waits a moment for the agent's session."""
    status = await _agent_status(addresses["agent"])
    return Summary(
        data_dir=layout.root,
        addresses=dict(addresses),
        agent=status.agent,
        slots=status.capacity.slots,
        gpus=tuple(gpu.model for gpu in status.gpus),
        agent_problem="" if status.connected else status.detail,
        engine=await _engine_version(),
    )


async def _agent_status(address: str) -> agent_pb2.GetStatusResponse:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _CONNECTED_WITHIN_S
    async with open_channel(address) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        while True:
            try:
                status = await stub.GetStatus(agent_pb2.GetStatusRequest(), timeout=_DEADLINE_S)
            except grpc.RpcError as error:
                raise to_error(error, peer=f"agent ({address})") from None
            if status.connected or loop.time() >= deadline:
                return status
            await asyncio.sleep(0.05)


async def _engine_version() -> str | None:
    url = os.environ.get("TOWLINE_AGENT_DOCKER_HOST")  # as the agent does; unset: DOCKER_HOST and so on
    try:
        async with aiodocker.Docker(url, timeout=aiohttp.ClientTimeout(total=_DEADLINE_S)) as docker:
            return str((await docker.version())["Version"])
    except (aiodocker.DockerError, aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None
