"""Hands waiting runs to this process's sessions as soon as both are there.

One coroutine claims for all sessions in one transaction at a time: credits and runs that come meanwhile
are the next one's. It wakes on signals, and looks by itself once per `POLL`.
"""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline.errors import TowlineError
from towline.service.postgres import transaction
from towline_queue import lease_messages
from towline_queue.connections import Connections, Session
from towline_queue.core.matching import Assignment, Offer, lanes, match
from towline_queue.lease_messages import NewLease
from towline_queue.signals import POLL, Key, Signals, Topic
from towline_queue.storage import claims
from towline_queue.storage.claims import Claimed

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)
_PAUSE_S: Final = 0.5


class Dispatcher:
    """Matches waiting runs with the credits of open sessions.

    Args:
        engine: The database.
        signals: Wakes it, and hears what it hands out.
        connections: The sessions.
        reserve_after: How long a run that fits nowhere yet is passed by smaller ones at most.
    """

    def __init__(
        self, engine: AsyncEngine, signals: Signals, connections: Connections, *, reserve_after: timedelta
    ) -> None:
        self._engine = engine
        self._signals = signals
        self._connections = connections
        self._reserve_after = reserve_after

    async def run(self) -> None:
        """Hand out runs until cancelled."""
        with self._signals.watching(Key(Topic.READY), Key(Topic.CREDITS)) as watch:
            while True:
                try:
                    handed_out = await self.hand_out()
                except TowlineError as error:
                    _log.warning("handing out failed, trying again: %s", error.message)
                    await _pause()
                except Exception:
                    # The one task that everything waits for must not die of one bad row or deadlock.
                    _log.exception("handing out failed, trying again")
                    await _pause()
                else:
                    if not handed_out:
                        await watch.wait(POLL)

    async def hand_out(self) -> int:
        """Hand out what fits now, at most one batch, and return how many runs that were."""
        sessions = {session: session.offer() for session in self._connections}
        if not any(offer.free_slots for offer in sessions.values()):
            return 0
        spent: dict[str, tuple[Session, Assignment, int]] = {}
        claimed: Sequence[Claimed] = ()
        try:
            async with transaction(self._engine) as connection:
                offers = await _without_held_gpus(connection, sessions)
                waiting = await claims.take(connection, lanes(offers))
                assignments = match(offers, waiting, reserve_after=self._reserve_after)
                # Spent before the claim, so that a heartbeat that comes meanwhile cannot free them again.
                for assignment in assignments:
                    session = self._connections.get(assignment.session)
                    if session is not None:
                        seq = session.credits.take(assignment.gpu_ids)
                        spent[assignment.run] = (session, assignment, seq)
                if not spent:
                    return 0
                claimed = await claims.claim(
                    connection,
                    [assignment for _, assignment, _ in spent.values()],
                    list({session.identity.agent for session, _, _ in spent.values()}),
                )
        except BaseException:
            for session, _, seq in spent.values():
                session.credits.give_back(seq)
            raise
        self._grant(claimed, spent)
        return len(claimed)

    def _grant(self, claimed: Sequence[Claimed], spent: dict[str, tuple[Session, Assignment, int]]) -> None:
        by_session: dict[Session, list[NewLease]] = defaultdict(list)
        for lease in claimed:
            session, assignment, seq = spent.pop(lease.key.run)
            session.grant_seqs[lease.key] = seq
            by_session[session].append(NewLease(lease, assignment.gpu_ids, seq))
            self._signals.run_changed(lease.key.run)
        for session, leases in by_session.items():
            for message in lease_messages.grants(leases, session.identity.policy.lost_after):
                session.send(message)
        for session, assignment, seq in spent.values():
            _log.info("%s could not have %s", session.identity.agent, assignment.run)
            session.credits.give_back(seq)
            session.credits.distrust()


async def _without_held_gpus(connection: AsyncConnection, sessions: Mapping[Session, Offer]) -> list[Offer]:
    """Take GPUs out of the offers that leases of their agents hold: what an agent says may be out of date."""
    agents = [session.identity.agent for session, offer in sessions.items() if offer.free_gpus]
    if not agents:
        return list(sessions.values())
    held = await claims.held_gpus(connection, agents)
    return [
        replace(offer, free_gpus=offer.free_gpus - held.get(session.identity.agent, set()))
        for session, offer in sessions.items()
    ]


async def _pause() -> None:
    await asyncio.sleep(_PAUSE_S * (0.5 + random.random()))  # noqa: S311 - jitter
