"""The sessions whose streams end in this process. All of it can be rebuilt: agents reconnect."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

from towline.errors import TowlineError
from towline.v1 import leases_pb2
from towline_queue.core.heartbeats import Pace
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
from towline_queue.storage.uuids import read_uuid

__all__ = ["Connections", "Session"]

_log = logging.getLogger(__name__)
_OUTBOX: Final = 1000
_OUTBOX_BYTES: Final = 8 * 1024 * 1024


def _nobody_writes() -> None:
    """Stand for the stream until there is one."""


class Session:
    """One stream: its protocol, and what is still to be written to it.

    Args:
        session_id: A new one.
        signals: Wakes the dispatcher.
        pace: Of the process.
    """

    __slots__ = ("_outbox", "_outbox_bytes", "_signals", "closing", "error", "protocol", "to_write")

    def __init__(self, session_id: UUID, signals: Signals, pace: Pace | None = None) -> None:
        self.protocol = SessionProtocol(session_id, pace, read_uuid)
        self.closing = asyncio.Event()
        """The stream is to end once its last words are written."""
        self.error: TowlineError | None = None
        """What it ends with."""
        self.to_write: Callable[[], None] = _nobody_writes
        """Is called when there is a message to write."""
        self._signals = signals
        # A list, for it is empty nearly always, and thousands of them are kept.
        self._outbox: list[leases_pb2.StreamLeasesResponse] = []
        self._outbox_bytes = 0

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

    def next_message(self) -> leases_pb2.StreamLeasesResponse | None:
        """Return the next message to write; None: there is nothing to say now."""
        if not self._outbox:
            self._outbox_bytes = 0
            return None
        return self._outbox.pop(0)

    def hush(self) -> None:
        """Drop what is still to be written: there is nothing more to say."""
        self._outbox.clear()

    def _send(self, message: leases_pb2.StreamLeasesResponse) -> None:
        if self.closing.is_set():
            return
        if self._outbox:  # one alone is written at once, and need not be measured
            self._outbox_bytes += message.ByteSize()
            if len(self._outbox) >= _OUTBOX or self._outbox_bytes > _OUTBOX_BYTES:
                self.handle(OutboxFull())
                return
        self._outbox.append(message)
        self.to_write()

    def _close(self, error: TowlineError | None) -> None:
        if error is not None:
            _log.warning("session of %s ends: %s", self.agent or "an agent", error.message)
        self.error = error
        self.closing.set()


class Connections:
    """The open sessions of this process, at most one per agent."""

    def __init__(self) -> None:
        self._by_id: dict[UUID, Session] = {}
        self._by_agent: dict[str, Session] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self.pace = Pace()
        """Is told how many they are."""

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
        self.pace.sessions = len(self._by_id)
        self._empty.clear()

    def remove(self, session: Session) -> None:
        """Forget a session; one that is not there is none of this process's."""
        self._by_id.pop(session.protocol.key.id, None)
        if self._by_agent.get(session.agent) is session:
            del self._by_agent[session.agent]
        self.pace.sessions = len(self._by_id)
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
