"""AgentService: how this agent is, on a socket of its node."""

from typing import Any

import grpc

from towline.v1 import agent_pb2, agent_pb2_grpc, leases_pb2
from towline_agent.engine.health import EngineHealth
from towline_agent.node import Node
from towline_agent.session import Sessions

__all__ = ["AgentServicer"]


class AgentServicer(agent_pb2_grpc.AgentServiceServicer):
    """Answers AgentService from what the agent holds.

    Args:
        agent: "agents/{agent}".
        node: What it holds.
        sessions: Whether it is connected.
        health: Whether its engine answers.
    """

    def __init__(self, agent: str, node: Node, sessions: Sessions, health: EngineHealth) -> None:
        self._agent = agent
        self._node = node
        self._sessions = sessions
        self._health = health

    async def GetStatus(  # noqa: N802 - named by the proto
        self, _request: agent_pb2.GetStatusRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> agent_pb2.GetStatusResponse:
        """See agent.proto."""
        return agent_pb2.GetStatusResponse(
            agent=self._agent,
            connected=self._sessions.connected,
            detail=self._sessions.detail,
            draining=self._node.book.intake.draining,
            capacity=leases_pb2.Capacity(slots=self._node.book.intake.capacity.slots),
            gpus=self._node.book.intake.capacity.gpus,
            leases=[lease.inventory() for lease in self._node.book.leases],
            engine_ready=self._health.ready,
            withheld=self._node.book.intake.withheld,
        )

    async def Drain(  # noqa: N802 - named by the proto
        self, _request: agent_pb2.DrainRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> agent_pb2.DrainResponse:
        """See agent.proto."""
        self._node.drain()
        return agent_pb2.DrainResponse()
