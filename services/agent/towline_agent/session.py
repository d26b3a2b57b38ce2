"""The session with the queue service: one StreamLeases call, made again whenever it ends.

What is said and what it means is core/protocol.py's; here it only travels.
"""

import asyncio
import logging
from random import random
from typing import Any, Final

import grpc

from towline.errors import NotFound, TowlineError, Unavailable
from towline.rpc.status import to_error
from towline.v1 import leases_pb2, leases_pb2_grpc
from towline_agent.calls import CALL_ERRORS, told_by
from towline_agent.core.backoff import Backoff
from towline_agent.core.protocol import MOST_FINISHES, AgentSession, SessionState
from towline_agent.deadlines import boottime
from towline_agent.node import Node

__all__ = ["Sessions"]

_log = logging.getLogger(__name__)

_WRITE_S: Final = 15.0
_ANSWER_S: Final = 10.0
# The loop's clock stands still while the node sleeps, that of the session does not: look at it often.
_LOOK_EVERY_S: Final = 1.0
# Trying again cannot help against these: another process is this agent, or its name is none.
_FATAL: Final = frozenset({"AGENT_ID_IN_USE", "SESSION_SUPERSEDED", "INVALID_FIELD"})
_QUEUE_RETRY_S: Final = 3.0
_LONGEST_PAUSE_S: Final = 10.0
_PAUSE_BEATS: Final = 2
_LEAST_JITTER_S: Final = 0.5
# Results go without a session when there was none for so many heartbeats.
_PATIENCE_BEATS: Final = 6

_Call = grpc.aio.StreamStreamCall[leases_pb2.StreamLeasesRequest, leases_pb2.StreamLeasesResponse]


class Sessions:
    """Keeps a session up, one after the other.

    Args:
        node: Whose leases it speaks for.
        channel: To the queue service.
        peer: The service and its address, for messages.
        introduction: Hello, but for inventory and session id.
    """

    def __init__(
        self, node: Node, channel: grpc.aio.Channel, peer: str, introduction: leases_pb2.Hello
    ) -> None:
        self._node = node
        self._stub = leases_pb2_grpc.LeaseServiceStub(channel)
        self._peer = peer
        self._introduction = introduction
        self._session_id = ""
        self._interval = 5.0
        self._up_at = boottime()
        self._missing_queues: list[str] = []
        self._leaving = asyncio.Event()
        self.connected = False
        """Whether a session is up."""
        self.detail = "not connected yet"
        """Why not, for people."""
        self.welcomed = asyncio.Event()
        """Set once the queue service has accepted this agent."""

    def leave(self) -> None:
        """End the session in order and make no other; `run` returns soon."""
        self._leaving.set()
        self._node.changed.set()

    async def run(self) -> None:
        """Keep a session up until `leave`; then deliver the results that nobody has confirmed, if possible.

        Raises:
            TowlineError: The queue service does not want this agent and will not later: another process
                is this agent (AGENT_ID_IN_USE, SESSION_SUPERSEDED), or a setting is wrong (INVALID_FIELD).
        """
        backoff = Backoff(random, cap=_LONGEST_PAUSE_S)
        while not self._leaving.is_set():
            try:
                pause = await self._one_session(backoff)
            except TowlineError as error:
                if error.reason in _FATAL:
                    raise
                pause = self._failed(error, backoff)
                if boottime() - self._up_at > _PATIENCE_BEATS * self._interval:
                    await self._deliver()
            finally:
                self.connected = False
            await self._pause(pause)
        await self._deliver()

    async def _deliver(self) -> None:
        """Send results without a session; what fails stays for the next."""
        finishes = self._node.book.unconfirmed()[:MOST_FINISHES]
        if not finishes:
            return
        try:
            request = leases_pb2.FinishLeasesRequest(finishes=finishes)
            response = await self._stub.FinishLeases(request, timeout=_ANSWER_S)
        except grpc.aio.AioRpcError as error:
            _log.debug("results wait: %s", to_error(error, peer=self._peer))
            return
        _log.info("%d results were delivered without a session", len(response.confirms))
        for confirm in response.confirms:
            self._node.apply(self._node.book.confirmed(confirm.finish_id))

    def _failed(self, error: TowlineError, backoff: Backoff) -> float:
        # A queue may be made later; somebody waits for it then, so the pause does not grow.
        missing = isinstance(error, NotFound) and error.reason == "QUEUE_NOT_FOUND"
        if error.message != self.detail:
            remedy = "; trying again until it is created" if missing else "; reconnecting"
            _log.warning("no session: %s%s", error.message, remedy)
        self.detail = error.message
        pause = backoff.failed()
        return _QUEUE_RETRY_S * (0.5 + random()) if missing else pause  # noqa: S311 - jitter

    def _welcome(self, session: AgentSession, backoff: Backoff) -> None:
        """Take note of a session that has opened."""
        self._session_id = session.session_id
        self._interval = session.interval
        backoff.succeeded()
        # Where leases are short, a pause of seconds would cost them.
        backoff.cap = min(_LONGEST_PAUSE_S, _PAUSE_BEATS * session.interval)
        self.connected, self.detail = True, ""
        self.welcomed.set()
        _log.info("connected to %s", self._peer)
        queues = session.missing_queues
        if queues and queues != self._missing_queues:  # the same ones once
            _log.warning(
                "not served until created: %s; create them, or correct TOWLINE_AGENT_QUEUES",
                ", ".join(queues),
            )
        self._missing_queues = queues

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._leaving.wait()
        except TimeoutError:
            return

    async def _one_session(self, backoff: Backoff) -> float:
        """Run a session to its end and return how long to wait before the next."""
        # No deadline: a session has none; reads and writes have.
        call: _Call = self._stub.StreamLeases()
        session = AgentSession(self._node.book, self._introduction, self._session_id)
        wire = _Wire(session, self._node, call, self._peer)
        try:
            await wire.open()
            self._welcome(session, backoff)
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(wire.send(self._leaving))
                await wire.receive(self._leaving)
                sender.cancel()
        except* CALL_ERRORS as errors:
            raise told_by(errors, self._peer) from None
        finally:
            if session.state in (SessionState.OPEN, SessionState.LEAVING, SessionState.AWAY):
                self._up_at = boottime()
            session.broken()
            call.cancel()
        away = session.away
        if away is None:
            return 0.0
        _log.info("the queue service asks to reconnect: %s", away.reason)
        return away.after + max(away.jitter, _LEAST_JITTER_S) * random()  # noqa: S311 - jitter


class _Wire:
    """One call: carries what a session says and hears."""

    def __init__(self, session: AgentSession, node: Node, call: _Call, peer: str) -> None:
        self._session = session
        self._node = node
        self._call = call
        self._peer = peer

    async def open(self) -> None:
        """Introduce the agent and follow the verdicts."""
        await self._write(self._session.hello(boottime()))
        if not await self._hear():
            raise Unavailable(f"{self._peer} ended the session before it began", reason="UNAVAILABLE")

    async def send(self, leaving: asyncio.Event) -> None:
        """Say what there is to say, and heartbeats in time, until cancelled or `leaving` is set."""
        while self._session.away is None:
            last = leaving.is_set()
            if last:
                self._session.leave()
            while request := self._session.to_send(boottime()):
                await self._write(request)
            if last:
                await self._call.done_writing()
                return
            left = max(0.0, self._session.next_beat() - boottime())
            try:
                async with asyncio.timeout(min(left, _LOOK_EVERY_S)):
                    await self._node.changed.wait()
            except TimeoutError:
                continue

    async def receive(self, leaving: asyncio.Event) -> None:
        """Follow what is said until the session ends in order."""
        while self._session.away is None:
            if not await self._hear():
                if leaving.is_set():
                    return
                raise Unavailable(f"{self._peer} ended the session", reason="UNAVAILABLE")

    async def _hear(self) -> bool:
        """Take the next message; False at the end of the call."""
        try:
            async with asyncio.timeout(max(0.0, self._session.silent_at - boottime())):
                response: Any = await self._call.read()
        except TimeoutError:
            raise Unavailable(f"{self._peer} is silent", reason="UNAVAILABLE") from None
        if response is grpc.aio.EOF:
            return False
        if response.HasField("drain"):
            self._node.drain()
        self._node.apply(self._session.received(response, boottime()))
        return True

    async def _write(self, request: leases_pb2.StreamLeasesRequest) -> None:
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._call.write(request)
        except TimeoutError:
            raise Unavailable(f"{self._peer} takes no more messages", reason="UNAVAILABLE") from None
