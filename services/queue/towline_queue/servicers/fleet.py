"""FleetService over gRPC."""

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline import names
from towline.requests import pages
from towline.service.postgres import idempotent, transaction
from towline.v1 import fleet_pb2, fleet_pb2_grpc, leases_pb2
from towline_queue.core.durations import read_duration
from towline_queue.signals import Signals
from towline_queue.storage import agents
from towline_queue.storage.agents import StoredAgent
from towline_queue.storage.tables import requests

__all__ = ["FleetServicer"]

_LIST: Final = b"ListAgents"


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Tells about agents and asks them to drain.

    Args:
        engine: The database.
        signals: Hears which agents shall drain.
    """

    def __init__(self, engine: AsyncEngine, signals: Signals) -> None:
        self._engine = engine
        self._signals = signals

    async def ListAgents(
        self, request: fleet_pb2.ListAgentsRequest, context: Any
    ) -> fleet_pb2.ListAgentsResponse:
        """Return agents by name, see the proto."""
        size = pages.page_size(request.page_size)
        after = pages.page_start(_LIST, request.page_token, str)
        async with transaction(self._engine) as connection:
            found = await agents.page(connection, after=after, size=size + 1)
        more = len(found) > size
        return fleet_pb2.ListAgentsResponse(
            agents=[_agent(agent) for agent in found[:size]],
            next_page_token=pages.next_token(_LIST, found[size - 1].name) if more else "",
        )

    async def GetAgent(self, request: fleet_pb2.GetAgentRequest, context: Any) -> fleet_pb2.GetAgentResponse:
        """Return one agent, see the proto."""
        name = names.agent(request.name, "name")
        async with transaction(self._engine) as connection:
            return fleet_pb2.GetAgentResponse(agent=_agent(await agents.get(connection, name)))

    async def DrainAgent(
        self, request: fleet_pb2.DrainAgentRequest, context: Any
    ) -> fleet_pb2.DrainAgentResponse:
        """Ask an agent to take no more runs, see the proto."""
        name = names.agent(request.name, "name")
        deadline = read_duration(request.deadline, "deadline") if request.HasField("deadline") else None

        async def apply(connection: AsyncConnection) -> fleet_pb2.DrainAgentResponse:
            await agents.drain_by(connection, name, deadline)
            return fleet_pb2.DrainAgentResponse(agent=_agent(await agents.get(connection, name)))

        response = await idempotent(self._engine, requests, request, fleet_pb2.DrainAgentResponse, apply)
        self._signals.drain_requested(name)
        return response


def _agent(stored: StoredAgent) -> fleet_pb2.Agent:
    agent = fleet_pb2.Agent(
        name=stored.name,
        state=_state(stored),
        hostname=stored.hostname,
        version=stored.version,
        queues=stored.queues,
        capacity=leases_pb2.Capacity.FromString(stored.capacity),
        gpus=[leases_pb2.Gpu.FromString(gpu) for gpu in stored.gpus],
        labels=stored.labels,
        runs=stored.runs,
        withheld=stored.withheld if stored.reachable else "",
    )
    if stored.seen_time is not None:
        agent.last_seen_time.FromDatetime(stored.seen_time)
    if stored.drain_deadline is not None:
        agent.drain_deadline.FromDatetime(stored.drain_deadline)
    return agent


def _state(stored: StoredAgent) -> fleet_pb2.AgentState.ValueType:
    if not stored.reachable:
        return fleet_pb2.AGENT_STATE_DISCONNECTED
    return fleet_pb2.AGENT_STATE_DRAINING if stored.draining else fleet_pb2.AGENT_STATE_CONNECTED
