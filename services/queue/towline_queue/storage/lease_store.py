"""The lease side's store on PostgreSQL: each method is one transaction of the statements in this folder."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from towline.errors import TowlineError
from towline_queue.core.dispatch import HandedOut, Search
from towline_queue.core.leases import (
    CarriedOut,
    Ended,
    LiveLease,
    Opened,
    Opening,
    Ready,
    Reconciled,
    Renewal,
    SessionKey,
)
from towline_queue.core.matching import Offer
from towline_queue.core.reports import SaidBy
from towline_queue.core.sessions import Inventory
from towline_queue.storage import leaders, reports, sessions, upkeep
from towline_queue.storage.claims import Claims
from towline_queue.storage.database import Database
from towline_queue.store import Choose

__all__ = ["PostgresLeaseStore"]


class PostgresLeaseStore:
    """A `towline_queue.store.LeaseStore`; what each method does and raises is said there.

    Args:
        database: The way to PostgreSQL.
        claims: Those of this process; None: its own.
    """

    def __init__(self, database: Database, claims: Claims | None = None) -> None:
        self._database = database
        self._claims = claims or Claims(database)

    async def open_sessions(self, openings: Sequence[Opening]) -> Sequence[Opened | TowlineError]:
        """See LeaseStore."""
        async with self._database.transaction() as transaction:
            return await sessions.open_sessions(transaction, openings)

    async def settle(self, session: SessionKey, inventory: Inventory) -> Reconciled | None:
        """See LeaseStore."""
        async with self._database.transaction() as transaction:
            return await sessions.settle(transaction, session, inventory)

    async def renew(self, keys: Sequence[SessionKey], *, look: bool = True) -> Sequence[Renewal | None]:
        """See LeaseStore."""
        return await sessions.renew(self._database, keys, look=look)

    async def leave(self, session: SessionKey) -> None:
        """See LeaseStore."""
        await sessions.leave(self._database, session)

    async def drain(self, session: SessionKey) -> None:
        """See LeaseStore."""
        await sessions.drain(self._database, session)

    async def withhold(self, session: SessionKey, why: str) -> None:
        """See LeaseStore."""
        await sessions.withhold(self._database, session, why)

    async def carry_out(self, said: Sequence[SaidBy]) -> CarriedOut:
        """See LeaseStore."""
        return await reports.carry_out(self._database, said)

    async def stops(self, runs: Sequence[str]) -> Sequence[LiveLease]:
        """See LeaseStore."""
        return await sessions.stops(self._database, runs)

    async def hand_out(
        self, offers: Sequence[Offer], searches: Sequence[Search], choose: Choose
    ) -> HandedOut:
        """See LeaseStore."""
        return await self._claims.hand_out(offers, searches, choose)

    async def lead(self, name: str, holder: UUID, term: timedelta) -> bool:
        """See LeaseStore."""
        return await leaders.lead(self._database, name, holder, term)

    async def take_back_lost(self, healthy_for: timedelta) -> Sequence[Ended]:
        """See LeaseStore."""
        async with self._database.transaction() as transaction:
            return await upkeep.take_back_lost(transaction, healthy_for)

    async def take_back_unanswered(self, reply_within: timedelta) -> Sequence[Ended]:
        """See LeaseStore."""
        return await upkeep.take_back_unanswered(self._database, reply_within)

    async def promote(self) -> Sequence[Ready]:
        """See LeaseStore."""
        return await upkeep.promote(self._database)

    async def expire_waiting(self) -> Sequence[str]:
        """See LeaseStore."""
        return await upkeep.expire_waiting(self._database)

    async def preempt_overdue_drains(self) -> Sequence[str]:
        """See LeaseStore."""
        return await upkeep.preempt_overdue_drains(self._database)

    async def forget_sessions(self) -> int:
        """See LeaseStore."""
        return await upkeep.forget_sessions(self._database)

    async def forget_requests(self) -> int:
        """See LeaseStore."""
        return await upkeep.forget_requests(self._database)

    async def keep_attempts(self, keep: timedelta | None) -> bool:
        """See LeaseStore."""
        return await upkeep.keep_attempts(self._database, keep)
