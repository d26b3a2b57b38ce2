"""Agents."""

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from towline.client import shorthand
from towline.client.calls import PAGE_SIZE, Service, listed, new_request_id
from towline.v1 import fleet_pb2
from towline.v1.fleet_pb2_grpc import FleetServiceStub

if TYPE_CHECKING:  # exists for type checkers only
    from towline.v1.fleet_pb2_grpc import FleetServiceAsyncStub

__all__ = ["Fleet"]


class Fleet:
    """The agents as the queue service knows them."""

    def __init__(self, queue: Service) -> None:
        self._queue = queue

    @cached_property
    def _stub(self) -> "FleetServiceAsyncStub":
        return FleetServiceStub(self._queue.channel)

    async def list(self) -> AsyncGenerator[fleet_pb2.Agent, None]:
        """Walk through all agents, by name."""

        async def fetch(token: str) -> tuple[Sequence[fleet_pb2.Agent], str]:
            request = fleet_pb2.ListAgentsRequest(page_size=PAGE_SIZE, page_token=token)
            page = await self._queue.call(self._stub.ListAgents, request)
            return page.agents, page.next_page_token

        async for item in listed(fetch):
            yield item

    async def get(self, name: str) -> fleet_pb2.Agent:
        """Get one agent."""
        request = fleet_pb2.GetAgentRequest(name=shorthand.agent(name))
        return (await self._queue.call(self._stub.GetAgent, request)).agent

    async def drain(self, name: str, deadline: timedelta | None = None) -> fleet_pb2.Agent:
        """Ask an agent to take no more runs and to leave when its last one has ended.

        Args:
            name: The agent.
            deadline: How long its runs may take to end; those left then are preempted. None: as long as they
                need.
        """
        request = fleet_pb2.DrainAgentRequest(request_id=new_request_id(), name=shorthand.agent(name))
        if deadline is not None:
            request.deadline.FromTimedelta(deadline)
        return (await self._queue.call(self._stub.DrainAgent, request)).agent
