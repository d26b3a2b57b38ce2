"""The session with the queue service: one StreamLeases call, made again whenever it ends."""

import asyncio
import logging
from collections.abc import Callable
from random import random
from typing import Any, Final

import grpc

from towline.errors import NotFound, TowlineError, Unavailable
from towline.v1 import leases_pb2, leases_pb2_grpc
from towline_agent.calls import CALL_ERRORS, told_by
from towline_agent.core.backoff import Backoff
from towline_agent.core.capacity import lease_set_digest
from towline_agent.core.phases import Phase
from towline_agent.node import Node, boottime

__all__ = ["Sessions"]

_log = logging.getLogger(__name__)

_WELCOME_S: Final = 15.0
_WRITE_S: Final = 15.0
# Trying again cannot help against these: another process is this agent, or its name is none.
_FATAL: Final = frozenset({"AGENT_ID_IN_USE", "SESSION_SUPERSEDED", "INVALID_FIELD"})
_QUEUE_RETRY_S: Final = 3.0

_Call = grpc.aio.StreamStreamCall[leases_pb2.StreamLeasesRequest, leases_pb2.StreamLeasesResponse]


class Sessions:
    """Keeps a session up, one after the other.

    Args:
        node: What is told and asked.
        channel: To the queue service.
        peer: The service and its address, for messages.
        introduce: Makes the Hello, but for inventory and session id.
        clock: See `boottime`.
    """

    def __init__(
        self,
        node: Node,
        channel: grpc.aio.Channel,
        peer: str,
        introduce: Callable[[], leases_pb2.Hello],
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._node = node
        self._stub = leases_pb2_grpc.LeaseServiceStub(channel)
        self._peer = peer
        self._introduce = introduce
        self._clock = clock
        self._session_id = ""
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
        """Keep a session up until `leave`.

        Raises:
            TowlineError: The queue service does not want this agent and will not later: another process
                is this agent (AGENT_ID_IN_USE, SESSION_SUPERSEDED), or a setting is wrong (INVALID_FIELD).
        """
        backoff = Backoff(random)
        while not self._leaving.is_set():
            try:
                pause = await self._one_session(backoff)
            except TowlineError as error:
                if error.reason in _FATAL:
                    raise
                pause = self._failed(error, backoff)
            finally:
                self.connected = False
            await self._pause(pause)

    def _failed(self, error: TowlineError, backoff: Backoff) -> float:
        # A queue may be made later; somebody waits for it then, so the pause does not grow.
        missing = isinstance(error, NotFound) and error.reason == "QUEUE_NOT_FOUND"
        if error.message != self.detail:
            remedy = "; trying again until it is created" if missing else "; reconnecting"
            _log.warning("no session: %s%s", error.message, remedy)
        self.detail = error.message
        pause = backoff.failed()
        return _QUEUE_RETRY_S * (0.5 + random()) if missing else pause  # noqa: S311 - jitter

    def _warn_of_missing(self, queues: list[str]) -> None:
        """Tell the operator which queues do not exist; the same ones once."""
        if queues and queues != self._missing_queues:
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
        try:
            session = _Session(self._node, call, self._peer, self._clock)
            welcome = await session.open(self._introduce(), self._session_id)
            self._session_id = welcome.session_id
            backoff.succeeded()
            self.connected, self.detail = True, ""
            self.welcomed.set()
            _log.info("connected to %s", self._peer)
            self._warn_of_missing(list(welcome.missing_queues))
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(session.send(self._leaving))
                away = await session.receive(self._leaving)
                sender.cancel()
            return away
        except* CALL_ERRORS as errors:
            raise told_by(errors, self._peer) from None
        finally:
            call.cancel()


class _Session:
    """One connection life: remembers what this call has said."""

    def __init__(self, node: Node, call: _Call, peer: str, clock: Callable[[], float]) -> None:
        self._node = node
        self._call = call
        self._peer = peer
        self._clock = clock
        self._interval = 5.0
        self._beats = 0
        self._sent_at: dict[int, float] = {}
        self._grant_seq = 0
        self._said_gen = -1
        self._said_events: dict[tuple[str, int], int] = {}
        self._said_finishes: set[str] = set()
        self._said_drain = False
        self._replies: list[leases_pb2.GrantReply] = []
        self._inventory_wanted = False

    async def open(self, hello: leases_pb2.Hello, session_id: str) -> leases_pb2.Welcome:
        """Introduce the agent, follow the verdicts, and return the welcome."""
        hello.session_id = session_id
        hello.inventory.extend(attempt.inventory() for attempt in self._node.attempts)
        sent = self._clock()
        await self._write(leases_pb2.StreamLeasesRequest(hello=hello))
        response = await self._read(_WELCOME_S)
        if response is None or not response.HasField("welcome"):
            raise Unavailable(f"{self._peer} ended the session before it began", reason="UNAVAILABLE")
        welcome = response.welcome
        self._interval = max(welcome.heartbeat_interval.ToTimedelta().total_seconds(), 0.05)
        self._node.renewed(sent, welcome.ttl.ToTimedelta())
        for verdict in welcome.verdicts:
            self._node.judged(verdict)
        await self._handle(response)
        return welcome

    async def send(self, leaving: asyncio.Event) -> None:
        """Say what there is to say, and heartbeats in time, until cancelled or `leaving` is set."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            request = self._news()
            if loop.time() >= due or self._node.capacity_gen != self._said_gen or self._inventory_wanted:
                request.heartbeat.CopyFrom(self._heartbeat())
                due = loop.time() + self._interval
            if request.ByteSize():
                await self._write(request)
            if leaving.is_set():
                await self._call.done_writing()
                return
            try:
                async with asyncio.timeout(max(0.0, due - loop.time())):
                    await self._node.changed.wait()
            except TimeoutError:
                continue

    async def receive(self, leaving: asyncio.Event) -> float:
        """Follow what is said until the session ends; return the seconds to stay away."""
        while True:
            # Every heartbeat is answered: silence means that nobody is there.
            response = await self._read(3 * self._interval + 5)
            if response is None:
                if leaving.is_set():
                    return 0.0
                raise Unavailable(f"{self._peer} ended the session", reason="UNAVAILABLE")
            await self._handle(response)
            if response.HasField("go_away"):
                away = response.go_away
                _log.info("the queue service asks to reconnect: %s", away.reason or "it stops")
                jitter = away.jitter.ToTimedelta().total_seconds() * random()  # noqa: S311 - jitter
                return away.reconnect_after.ToTimedelta().total_seconds() + jitter

    async def _handle(self, response: leases_pb2.StreamLeasesResponse) -> None:
        if response.HasField("renewed"):
            self._renewed(response.renewed)
        for confirm in response.confirms:
            self._node.confirmed(confirm)
        for cancel in response.cancels:
            self._node.cancelled(cancel)
        for grant in response.grants:
            self._grant_seq = max(self._grant_seq, grant.grant_seq)
            reply = await self._node.offer(grant)  # first: the list is another one by then
            self._replies.append(reply)
            self._node.changed.set()
        if response.inventory_wanted:
            self._inventory_wanted = True
            self._node.changed.set()
        if response.HasField("drain"):
            self._said_drain = True  # it knows
            self._node.drain()

    def _renewed(self, renewed: leases_pb2.Renewed) -> None:
        sent = self._sent_at.get(renewed.ack_seq)
        for seq in [seq for seq in self._sent_at if seq <= renewed.ack_seq]:
            del self._sent_at[seq]
        if sent is not None:
            self._node.renewed(sent, renewed.ttl.ToTimedelta())
        self._node.lost(renewed.lost_lease_ids)

    def _news(self) -> leases_pb2.StreamLeasesRequest:
        """Collect everything that this session has not said."""
        request = leases_pb2.StreamLeasesRequest(grant_replies=self._replies)
        self._replies = []
        for attempt in self._node.attempts:
            events = attempt.events_after(self._said_events.get(attempt.lease, 0))
            if events and attempt.phase is not Phase.DROPPED:
                request.run_events.extend(events)
                self._said_events[attempt.lease] = events[-1].event_seq
            if attempt.finish is not None and attempt.finish.finish_id not in self._said_finishes:
                request.finishes.append(attempt.finish)
                self._said_finishes.add(attempt.finish.finish_id)
        if self._node.draining and not self._said_drain:
            request.drain.SetInParent()
            self._said_drain = True
        return request

    def _heartbeat(self) -> leases_pb2.Heartbeat:
        free = self._node.credits()
        self._beats += 1
        self._said_gen = self._node.capacity_gen
        self._sent_at[self._beats] = self._clock()
        beat = leases_pb2.Heartbeat(
            seq=self._beats,
            capacity_gen=self._said_gen,
            free_slots=free.slots,
            free_gpu_ids=free.gpu_ids,
            lease_set_digest=lease_set_digest(self._held()),
            grant_seq_seen=self._grant_seq,
        )
        if self._inventory_wanted:
            self._inventory_wanted = False
            beat.has_inventory = True
            beat.inventory.extend(attempt.inventory() for attempt in self._node.attempts)
        return beat

    def _held(self) -> list[tuple[str, int]]:
        """Return leases that the queue service must also have once it has read what was said before."""
        return [
            attempt.lease
            for attempt in self._node.attempts
            if attempt.phase is not Phase.DROPPED
            and (attempt.finish is None or attempt.finish.finish_id not in self._said_finishes)
        ]

    async def _write(self, request: leases_pb2.StreamLeasesRequest) -> None:
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._call.write(request)
        except TimeoutError:
            raise Unavailable(f"{self._peer} takes no more messages", reason="UNAVAILABLE") from None

    async def _read(self, seconds: float) -> leases_pb2.StreamLeasesResponse | None:
        """Return the next message, or None at the end of the call."""
        try:
            async with asyncio.timeout(seconds):
                response: Any = await self._call.read()
        except TimeoutError:
            raise Unavailable(f"{self._peer} is silent", reason="UNAVAILABLE") from None
        return None if response is grpc.aio.EOF else response
