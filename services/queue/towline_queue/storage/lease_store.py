"""The lease side's store on PostgreSQL: each method is one transaction of the statements in this folder."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline.service.postgres import transaction
from towline_queue.core.leases import (
    CarriedOut,
    Claimed,
    Ended,
    LiveLease,
    Newcomer,
    Opened,
    Ready,
    Reconciled,
    Renewal,
    SessionKey,
)
from towline_queue.core.matching import Offer, lanes
from towline_queue.core.reports import SaidBy
from towline_queue.core.sessions import Inventory, InventoryEntry
from towline_queue.storage import claims, leaders, reports, sessions, upkeep
from towline_queue.store import Choose

__all__ = ["PostgresLeaseStore"]


class PostgresLeaseStore:
    """A `towline_queue.store.LeaseStore`; what each method does and raises is said there.

    Args:
        engine: The database.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def open_session(
        self, session: UUID, newcomer: Newcomer, queues: Sequence[str], entries: Sequence[InventoryEntry]
    ) -> Opened:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await sessions.open_session(connection, session, newcomer, queues, entries)

    async def settle(self, session: SessionKey, inventory: Inventory) -> Reconciled | None:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await sessions.settle(connection, session, inventory)

    async def renew(self, keys: Sequence[SessionKey]) -> Sequence[Renewal | None]:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await sessions.renew(connection, keys)

    async def leave(self, session: SessionKey) -> None:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            await sessions.leave(connection, session)

    async def drain(self, session: SessionKey) -> None:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            await sessions.drain(connection, session)

    async def carry_out(self, said: Sequence[SaidBy]) -> CarriedOut:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await reports.carry_out(connection, said)

    async def stops(self, runs: Sequence[str]) -> Sequence[LiveLease]:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await sessions.stops(connection, runs)

    async def hand_out(self, offers: Sequence[Offer], choose: Choose) -> Sequence[Claimed]:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            free = await _without_held_gpus(connection, offers)
            waiting = await claims.take(connection, lanes(free))
            if not waiting:
                return []
            assignments = choose(free, waiting)
            if not assignments:
                return []
            agent_of = {offer.session: offer.agent for offer in offers}
            holders = {agent_of[assignment.session] for assignment in assignments}
            return await claims.claim(connection, assignments, sorted(holders))

    async def lead(self, name: str, holder: UUID, term: timedelta) -> bool:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await leaders.lead(connection, name, holder, term)

    async def take_back_lost(self, healthy_for: timedelta) -> Sequence[Ended]:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await upkeep.take_back_lost(connection, healthy_for)

    async def take_back_unanswered(self, reply_within: timedelta) -> Sequence[Ended]:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await upkeep.take_back_unanswered(connection, reply_within)

    async def promote(self) -> Sequence[Ready]:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await upkeep.promote(connection)

    async def expire_waiting(self) -> Sequence[str]:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await upkeep.expire_waiting(connection)

    async def preempt_overdue_drains(self) -> Sequence[str]:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await upkeep.preempt_overdue_drains(connection)

    async def forget_sessions(self) -> int:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await upkeep.forget_sessions(connection)

    async def forget_requests(self) -> int:
        """See LeaseStore."""
        async with transaction(self._engine) as connection:
            return await upkeep.forget_requests(connection)


async def _without_held_gpus(connection: AsyncConnection, offers: Sequence[Offer]) -> list[Offer]:
    """Take GPUs out of the offers that leases of their agents hold: what an agent says may be out of date."""
    with_gpus = [offer.agent for offer in offers if offer.free_gpus]
    if not with_gpus:
        return list(offers)
    held = await claims.held_gpus(connection, with_gpus)
    # One that is not there is locked: its GPUs are being given away, or it opens a session.
    return [
        replace(offer, free_gpus=offer.free_gpus - held[offer.agent] if offer.agent in held else frozenset())
        for offer in offers
    ]
