"""Whether the services are well, and what there is to say about them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiodocker
import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from towline.embedded.layout import Layout
from towline.errors import Unavailable
from towline.rpc.channel import open_channel
from towline.rpc.status import to_error
from towline.v1 import agent_pb2, agent_pb2_grpc

__all__ = ["Summary", "check_health", "summarise"]

_DEADLINE_S: Final = 5.0


@dataclass(frozen=True)
class Summary:
    """What a person wants to know once everything is up."""

    data_dir: Path
    addresses: Mapping[str, str]
    agent: str
    slots: int
    gpus: tuple[str, ...]
    """Models, one per GPU."""
    engine: str | None
    """Version of the Docker Engine; None where none answers."""


async def check_health(addresses: Mapping[str, str]) -> None:
    """Ask each service over gRPC whether it serves.

    Raises:
        Unavailable: One does not.
    """
    for name, address in addresses.items():
        async with open_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_DEADLINE_S)
            except grpc.RpcError as error:
                raise to_error(error, peer=f"{name} ({address})") from None
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable(f"{name} ({address}) does not serve yet", reason="NOT_SERVING")


async def summarise(layout: Layout, addresses: Mapping[str, str]) -> Summary:
    """Ask the agent what it has, and the engine for its version."""
    async with open_channel(addresses["agent"]) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        try:
            status = await stub.GetStatus(agent_pb2.GetStatusRequest(), timeout=_DEADLINE_S)
        except grpc.RpcError as error:
            raise to_error(error, peer=f"agent ({addresses['agent']})") from None
    return Summary(
        data_dir=layout.root,
        addresses=dict(addresses),
        agent=status.agent,
        slots=status.capacity.slots,
        gpus=tuple(gpu.model for gpu in status.gpus),
        engine=await _engine_version(),
    )


async def _engine_version() -> str | None:
    url = os.environ.get("TOWLINE_AGENT_DOCKER_HOST")  # as the agent does; unset: DOCKER_HOST and so on
    try:
        async with aiodocker.Docker(url, timeout=aiohttp.ClientTimeout(total=_DEADLINE_S)) as docker:
            return str((await docker.version())["Version"])
    except (aiodocker.DockerError, aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None
