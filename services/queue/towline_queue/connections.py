"""The sessions whose streams end in this process. All of it can be rebuilt: agents reconnect."""

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from towline.errors import TowlineError
from towline.v1 import leases_pb2
from towline_queue.core.session_events import (
    Close,
    Event,
    OutboxFull,
    Send,
    StoreCall,
    Superseded,
    WakeDispatcher,
)
from towline_queue.core.session_protocol import SessionProtocol
from towline_queue.core.session_states import Phase
from towline_queue.signals import Signals

__all__ = ["Connections", "Session"]

_log = logging.getLogger(__name__)
_OUTBOX: Final = 1000


class Session:
    """One stream: its protocol, and what is still to be written to it.

    Args:
        session_id: A new one.
        signals: Wakes the dispatcher.
    """

    def __init__(self, session_id: UUID, signals: Signals) -> None:
        self.protocol = SessionProtocol(session_id)
        self.closing = asyncio.Event()
        """The stream is to end once its last words are written."""
        self.error: TowlineError | None = None
        """What it ends with."""
        self._signals = signals
        self._outbox: asyncio.Queue[leases_pb2.StreamLeasesResponse | None] = asyncio.Queue(_OUTBOX)

    @property
    def agent(self) -> str:
        """Its agent, "agents/{agent}"."""
        return self.protocol.key.agent

    def handle(self, event: Event) -> StoreCall | None:
        """Tell the protocol of an event, carry out its effects, and return what is to be asked of the store.

        Events of this process ask nothing of it.
        """
        for effect in self.protocol.handle(event, time.monotonic()):
            match effect:
                case Send(message):
                    self._send(message)
                case WakeDispatcher():
                    self._signals.credits_changed(self.agent)
                case Close(error):
                    self._close(error)
                case _:
                    return None if self.protocol.phase is Phase.CLOSED else effect
        return None

    async def next_message(self) -> leases_pb2.StreamLeasesResponse | None:
        """Return the next message to write; None: that was the last."""
        return await self._outbox.get()

    def hush(self) -> None:
        """Drop what is still to be written: there is nothing more to say."""
        while not self._outbox.empty():
            self._outbox.get_nowait()
        self._outbox.put_nowait(None)

    def _send(self, message: leases_pb2.StreamLeasesResponse) -> None:
        if self.closing.is_set():
            return
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.handle(OutboxFull())

    def _close(self, error: TowlineError | None) -> None:
        if error is not None:
            _log.warning("session of %s ends: %s", self.agent or "an agent", error.message)
        self.error = error
        if not self._outbox.full():
            self._outbox.put_nowait(None)
        self.closing.set()


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
        """Register an open session; of two with one agent, the older one ends."""
        other = self._by_agent.get(session.agent)
        if other is not None and other.protocol.epoch > session.protocol.epoch:
            session.handle(Superseded())
            return
        if other is not None:
            self.remove(other)
            other.handle(Superseded())
        self._by_id[session.protocol.key.id] = session
        self._by_agent[session.agent] = session
        self._empty.clear()

    def remove(self, session: Session) -> None:
        """Forget a session; one that is not there is none of this process's."""
        self._by_id.pop(session.protocol.key.id, None)
        if self._by_agent.get(session.agent) is session:
            del self._by_agent[session.agent]
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
