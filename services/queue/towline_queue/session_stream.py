"""One agent's stream: what it says is carried out in order, what it is to hear is written as it comes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import grpc

from towline.errors import TowlineError
from towline.v1 import leases_pb2
from towline_queue import lease_messages
from towline_queue.connections import Session, close_superseded
from towline_queue.core.lease_ids import AttemptKey, lease_id
from towline_queue.core.reports import ReportAnswer
from towline_queue.core.sessions import Inventory, VerdictKind, lease_set_digest
from towline_queue.lease_messages import Said
from towline_queue.session_desk import SessionDesk
from towline_queue.signals import Signals
from towline_queue.storage.sessions import Renewal

__all__ = ["SessionStream", "Stream"]

_log = logging.getLogger(__name__)

Stream = grpc.aio.ServicerContext[Any, Any]

_INBOX: Final = 256
_LAST_WORDS: Final = timedelta(seconds=1)
_STOPS: Final = frozenset({VerdictKind.STOP_STALE, VerdictKind.STOP_UNKNOWN, VerdictKind.FINISH_CONFIRMED})


class SessionStream:
    """Serves an open session until its stream ends.

    Args:
        session: The session, its Welcome already queued.
        desk: Carries out what the agent says.
        signals: Wakes the dispatcher.
    """

    def __init__(self, session: Session, desk: SessionDesk, signals: Signals) -> None:
        self._session = session
        self._desk = desk
        self._signals = signals
        self._inbox: asyncio.Queue[leases_pb2.StreamLeasesRequest | None] = asyncio.Queue(_INBOX)

    async def serve(self, requests: AsyncIterator[leases_pb2.StreamLeasesRequest], stream: Stream) -> None:
        """Serve the stream until it ends in order.

        Raises:
            TowlineError: Why the service ended it.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._read(requests, stream), name="read"),
                group.create_task(self._handle(), name="handle"),
                group.create_task(self._write(stream), name="write"),
            ]
            await self._session.closing.wait()
            await asyncio.wait(tasks[2:], timeout=_LAST_WORDS.total_seconds())
            for task in tasks:
                task.cancel()
        if self._session.error is not None:
            raise self._session.error

    async def _read(self, requests: AsyncIterator[leases_pb2.StreamLeasesRequest], stream: Stream) -> None:
        async for message in requests:
            await self._inbox.put(message)
        if not stream.cancelled():  # a broken connection is no good-bye
            await self._inbox.put(None)

    async def _write(self, stream: Stream) -> None:
        try:
            while (message := await self._session.next_message()) is not None:
                await stream.write(message)
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            # The agent is gone. Its leases stay as they are, so there is nothing to say.
            _log.debug("%s went away: %s", self._session.identity.agent, error)
            self._session.close(None)

    async def _handle(self) -> None:
        """Carry out what came, all that has come at a time, until the agent says good-bye."""
        agent = self._session.identity.agent
        try:
            while True:
                messages, last = await self._take()
                await self._carry_out(lease_messages.read_messages(messages))
                if last:
                    break
            await self._desk.leave(self._session.identity.id, agent)
            self._session.close(None)
        except TowlineError as error:
            _log.warning("session of %s ends: %s", agent, error.message)
            self._session.close(error)

    async def _take(self) -> tuple[list[leases_pb2.StreamLeasesRequest], bool]:
        """Return all messages that have come, at least one or the end, and whether that was the end."""
        messages = []
        message = await self._inbox.get()
        while message is not None:
            messages.append(message)
            if self._inbox.empty():
                return messages, False
            message = self._inbox.get_nowait()
        return messages, True

    async def _carry_out(self, said: Said) -> None:
        session = self._session
        session.lost |= said.unknown
        if said.report:
            self._answer(said, await self._desk.report(session.identity.agent, said.report))
        if said.drain:
            await self._desk.drain(session.identity.agent)
        if said.heartbeat is not None:
            await self._beat(said.heartbeat)

    def _answer(self, said: Said, answer: ReportAnswer) -> None:
        session = self._session
        for key in answer.ended | answer.stale:
            session.grant_seqs.pop(key, None)
        session.lost |= {lease_id(key) for key in answer.stale}
        if answer.results:
            confirms = lease_messages.confirms(answer.results)
            session.send(leases_pb2.StreamLeasesResponse(confirms=confirms))
        for reply in said.report.replies:
            if reply.accepted:
                session.accepted()
            else:
                session.refused()

    async def _beat(self, beat: leases_pb2.Heartbeat) -> None:
        """Renew the session, take its credits, and tell it what it does not know yet."""
        session = self._session
        identity = session.identity
        known = dict(session.grant_seqs)
        renewal = await self._desk.renew(identity.id, identity.agent)
        if renewal is None:
            close_superseded(session)
            return
        # Only now: before the commit a session that was silent would still be refused a claim.
        session.credits.told(
            beat.capacity_gen, beat.free_slots, frozenset(beat.free_gpu_ids), beat.grant_seq_seen
        )
        self._signals.credits_changed(identity.agent)
        if beat.has_inventory:
            await self._settle(beat)
        self._find_lost(known, renewal)
        response = leases_pb2.StreamLeasesResponse(
            renewed=leases_pb2.Renewed(
                ack_seq=beat.seq,
                ttl=lease_messages.duration(identity.policy.lost_after),
                lost_lease_ids=sorted(session.lost),
            ),
            cancels=[lease_messages.cancel(lease) for lease in renewal.leases if lease.spec is not None],
            inventory_wanted=not beat.has_inventory and self._differs(beat, renewal),
        )
        session.lost.clear()
        if renewal.draining and not session.drain_told:
            response.drain.SetInParent()
            session.drain_told = True
        session.send(response)

    def _find_lost(self, known: dict[AttemptKey, int], renewal: Renewal) -> None:
        """Note leases that this process granted or adopted, and that are gone without the agent's doing."""
        alive = {lease.key for lease in renewal.leases}
        for key, seq in known.items():
            if key in alive or self._session.grant_seqs.pop(key, None) is None:
                continue
            self._session.lost.add(lease_id(key))
            if seq:  # granted here, and taken back since: most likely unanswered
                self._session.refused()

    def _differs(self, beat: leases_pb2.Heartbeat, renewal: Renewal) -> bool:
        """Return whether the agent holds other leases than the database says, as far as it can know."""
        if not beat.lease_set_digest:
            return False
        heard_of = [
            lease.key
            for lease in renewal.leases
            if self._session.grant_seqs.get(lease.key, beat.grant_seq_seen + 1) <= beat.grant_seq_seen
        ]
        return lease_set_digest(heard_of) != beat.lease_set_digest

    async def _settle(self, beat: leases_pb2.Heartbeat) -> None:
        session = self._session
        heard_of = {key for key, seq in session.grant_seqs.items() if seq <= beat.grant_seq_seen}
        inventory = Inventory(lease_messages.inventory(beat.inventory), speaks_for=heard_of)
        reconciled = await self._desk.settle(session.identity.id, session.identity.agent, inventory)
        if reconciled is None:
            return  # superseded: the next renewal says so
        outcome = reconciled.outcome
        for ended in reconciled.given_back:
            session.grant_seqs.pop(ended.key, None)
        for key in outcome.adopted:
            session.grant_seqs.setdefault(key, 0)
        session.lost |= {entry.lease_id for entry, verdict in outcome.verdicts if verdict in _STOPS}
