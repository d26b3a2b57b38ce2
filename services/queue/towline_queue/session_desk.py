"""What sessions do to the database, in transactions that many of them share; wakes whom it concerns."""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import NotFound
from towline.service.postgres import transaction
from towline.v1 import queues_pb2
from towline_queue.core.lease_policy import LeasePolicy, policy_of, strictest
from towline_queue.core.reports import FinishVerdict, Report, ReportAnswer, SaidBy
from towline_queue.core.sessions import Inventory, InventoryEntry
from towline_queue.group_commit import GroupCommit
from towline_queue.signals import Signals
from towline_queue.storage import agents as agent_storage
from towline_queue.storage import sessions
from towline_queue.storage.attempts import GivenBack
from towline_queue.storage.reports import carry_out
from towline_queue.storage.sessions import LiveLease, Newcomer, Opened, Reconciled, Renewal
from towline_queue.storage.tables import agents

__all__ = ["OpenSession", "SessionDesk", "announce_given_back"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenSession:
    """A session that is open in the database."""

    id: UUID
    policy: LeasePolicy
    opened: Opened
    missing_queues: tuple[str, ...]


class SessionDesk:
    """Opens and renews sessions and carries out what agents report.

    Args:
        engine: The database.
        signals: Gets what changed, after the commit.
    """

    def __init__(self, engine: AsyncEngine, signals: Signals) -> None:
        self._engine = engine
        self._signals = signals
        self._reports = GroupCommit[SaidBy, ReportAnswer](self._commit_reports)
        self._renewals = GroupCommit[tuple[UUID, str], Renewal | None](self._commit_renewals)
        self.dropped: Counter[str] = Counter()
        """How many reports were dropped because their epoch was stale, by kind."""

    async def run(self) -> None:
        """Carry out reports and renewals until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reports.run(), name="reports")
            group.create_task(self._renewals.run(), name="renewals")

    async def open(
        self, newcomer: Newcomer, queues: Sequence[str], inventory: list[InventoryEntry]
    ) -> OpenSession:
        """Open a session and settle the leases that its agent holds or should hold.

        Raises:
            NotFound: None of the queues exists; QUEUE_NOT_FOUND.
            AlreadyExists: Another agent has the name; AGENT_ID_IN_USE.
            Unavailable: PostgreSQL cannot be reached.
        """
        session = uuid4()
        async with transaction(self._engine) as connection:
            specs = await sessions.queue_specs(connection, queues)
            missing = tuple(queue for queue in queues if queue not in specs)
            policy = _policy(specs.values(), missing)
            opened = await sessions.open_session(connection, session, newcomer, inventory, policy)
        self._settled(opened.reconciled)
        return OpenSession(session, policy, opened, missing)

    async def settle(self, session: UUID, agent: str, inventory: Inventory) -> Reconciled | None:
        """Compare an open session's inventory with its leases; None if the session was superseded."""
        async with transaction(self._engine) as connection:
            current = await connection.execute(
                select(agents.c.name)
                .where(agents.c.name == agent, agents.c.session == session)
                .with_for_update(read=True)
            )
            if current.one_or_none() is None:
                return None
            reconciled = await sessions.reconcile_inventory(connection, session, agent, inventory)
        self._settled(reconciled)
        return reconciled

    def _settled(self, reconciled: Reconciled) -> None:
        for key in reconciled.outcome.adopted:
            self._signals.run_changed(key.run)
        announce_given_back(self._signals, reconciled.given_back)

    async def renew(self, session: UUID, agent: str) -> Renewal | None:
        """Renew a session; None if it was superseded. Waits through an outage."""
        return await self._renewals.submit((session, agent))

    async def _commit_renewals(self, items: Sequence[tuple[UUID, str]]) -> list[Renewal | None]:
        async with transaction(self._engine) as connection:
            renewed = await sessions.renew(connection, dict(items))
        return [renewed.get(session) for session, _ in items]

    async def leave(self, session: UUID, agent: str) -> None:
        """End a session in order; one that still holds leases keeps them and just falls silent."""
        async with transaction(self._engine) as connection:
            await sessions.leave(connection, session, agent)

    async def drain(self, agent: str) -> None:
        """Keep an agent from getting more runs, as it asked itself."""
        async with transaction(self._engine) as connection:
            await agent_storage.drain(connection, agent)

    async def cancels(self, runs: Sequence[str]) -> list[LiveLease]:
        """Return the leases on those of the runs that are to be stopped."""
        async with transaction(self._engine) as connection:
            return await sessions.cancels(connection, runs)

    async def report(self, agent: str, report: Report) -> ReportAnswer:
        """Carry out what an agent reports, in a transaction shared with others. Waits through an outage."""
        return await self._reports.submit(SaidBy(agent, report))

    async def _commit_reports(self, items: Sequence[SaidBy]) -> list[ReportAnswer]:
        async with transaction(self._engine) as connection:
            carried_out = await carry_out(connection, items)
        for run in carried_out.changed:
            self._signals.run_changed(run)
        announce_given_back(self._signals, carried_out.given_back)
        for answer in carried_out.answers:
            self._count(answer)
        return carried_out.answers

    def _count(self, answer: ReportAnswer) -> None:
        for kind, stale in (
            ("report", len(answer.stale)),
            ("result", sum(verdict is FinishVerdict.STALE_EPOCH for _, verdict in answer.results)),
        ):
            if stale:
                self.dropped[kind] += stale
                _log.info("dropped %d stale %ss", stale, kind, extra={"stale": sorted(answer.stale)})


def announce_given_back(signals: Signals, given_back: Sequence[GivenBack]) -> None:
    """Wake whom it concerns that attempts ended without a result."""
    for ended in given_back:
        signals.run_changed(ended.key.run)
    for queue in {ended.queue for ended in given_back if not ended.cancelled}:
        signals.queue_ready(queue)


def _policy(specs: Collection[bytes], missing: Sequence[str]) -> LeasePolicy:
    """Give what holds for a session; a queue that was deleted must not keep its agent from the others."""
    if not specs:
        raise NotFound(
            f"hello.queues: {', '.join(missing)} not found; create it first "
            "(towline queue create), or take it out of the agent's queues",
            reason="QUEUE_NOT_FOUND",
            metadata={"queue": missing[0]},
        )
    return strictest(policy_of(queues_pb2.QueueSpec.FromString(spec).lease_policy) for spec in specs)
