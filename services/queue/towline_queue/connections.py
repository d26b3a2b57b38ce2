"""The sessions whose streams end in this process. All of it can be rebuilt: agents reconnect."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from towline.errors import Aborted, ResourceExhausted, TowlineError
from towline.v1 import leases_pb2
from towline_queue.core.credits import Credits
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import LeasePolicy
from towline_queue.core.matching import Offer

__all__ = ["Connections", "Identity", "Session"]

_OUTBOX: Final = 1000
_FIRST_BACKOFF_S: Final = 1.0
_LONGEST_BACKOFF_S: Final = 30.0


@dataclass(frozen=True)
class Identity:
    """What does not change while a session lasts.

    Attributes:
        id: Of the session.
        agent: "agents/{agent}".
        epoch: Rises with each session of an agent.
        queues: Queues it serves, the preferred ones first.
        total_gpus: GPUs the agent has.
        policy: The strictest of its queues' policies.
    """

    id: UUID
    agent: str
    epoch: int
    queues: tuple[str, ...]
    total_gpus: int
    policy: LeasePolicy


class Session:
    """One open stream: what its agent could take, what it holds, and what is to be sent to it.

    Args:
        identity: Who it is.
        held: Leases that it brought along.
    """

    def __init__(self, identity: Identity, held: set[AttemptKey]) -> None:
        self.identity = identity
        self.credits = Credits()
        self.grant_seqs: dict[AttemptKey, int] = dict.fromkeys(held, 0)
        """Leases that the agent holds as far as this process knows, with the number of their grant."""
        self.lost: set[str] = set()
        """Ids of leases that the agent is still to be told it no longer has."""
        self.drain_told = False
        self.closing = asyncio.Event()
        self.error: TowlineError | None = None
        self._outbox: asyncio.Queue[leases_pb2.StreamLeasesResponse | None] = asyncio.Queue(_OUTBOX)
        self._refusals = 0
        self._no_grants_before = 0.0

    def send(self, response: leases_pb2.StreamLeasesResponse) -> None:
        """Queue a message; a session whose agent does not read is closed, and keeps its leases."""
        if self.closing.is_set():
            return
        try:
            self._outbox.put_nowait(response)
        except asyncio.QueueFull:
            self.error = ResourceExhausted(
                f"{self.identity.agent} does not read what it is sent; reconnect",
                reason="OUTBOX_FULL",
                retry_after=timedelta(seconds=1),
            )
            self.closing.set()

    def close(self, error: TowlineError | None, go_away: leases_pb2.GoAway | None = None) -> None:
        """End the stream after what is queued and a last word; the first call counts."""
        if self.closing.is_set():
            return
        if go_away is not None:
            self.send(leases_pb2.StreamLeasesResponse(go_away=go_away))
        if not self._outbox.full():
            self._outbox.put_nowait(None)
        self.error = self.error or error
        self.closing.set()

    async def next_message(self) -> leases_pb2.StreamLeasesResponse | None:
        """Return the next message to send; None: that was the last."""
        return await self._outbox.get()

    def refused(self) -> None:
        """Give the agent no runs for a while, longer each time: it would refuse them too."""
        pause = min(_FIRST_BACKOFF_S * 2**self._refusals, _LONGEST_BACKOFF_S)
        self._refusals = min(self._refusals + 1, 10)
        self._no_grants_before = time.monotonic() + pause

    def accepted(self) -> None:
        """Forget refusals."""
        self._refusals = 0

    def offer(self) -> Offer:
        """Say what it could take now."""
        paused = time.monotonic() < self._no_grants_before
        return Offer(
            session=self.identity.id,
            queues=self.identity.queues,
            free_slots=0 if paused else self.credits.free_slots,
            free_gpus=self.credits.free_gpus,
            total_gpus=self.identity.total_gpus,
        )


class Connections:
    """The open sessions of this process, at most one per agent."""

    def __init__(self) -> None:
        self._by_id: dict[UUID, Session] = {}
        self._by_agent: dict[str, Session] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    def add(self, session: Session) -> None:
        """Register an open session; of two with one agent, the older one is closed."""
        agent = session.identity.agent
        other = self._by_agent.get(agent)
        if other is not None and other.identity.epoch > session.identity.epoch:
            close_superseded(session)
            return
        if other is not None:
            self.remove(other)
            close_superseded(other)
        self._by_id[session.identity.id] = session
        self._by_agent[agent] = session
        self._empty.clear()

    def remove(self, session: Session) -> None:
        """Forget a session; one that is not there is none of this process's."""
        self._by_id.pop(session.identity.id, None)
        if self._by_agent.get(session.identity.agent) is session:
            del self._by_agent[session.identity.agent]
        if not self._by_id:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until no session is open."""
        await self._empty.wait()

    def get(self, session_id: UUID) -> Session | None:
        """Return an open session."""
        return self._by_id.get(session_id)

    def of_agent(self, agent: str) -> Session | None:
        """Return the open session of an agent."""
        return self._by_agent.get(agent)


def close_superseded(session: Session) -> None:
    """End a session whose agent has opened a newer one."""
    session.close(
        Aborted(
            f"{session.identity.agent} has opened a newer session; this one is over",
            reason="SESSION_SUPERSEDED",
            metadata={"agent": session.identity.agent},
        ),
        leases_pb2.GoAway(reason="a newer session of this agent is open"),
    )
