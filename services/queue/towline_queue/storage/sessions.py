"""Sessions in PostgreSQL. Locks are taken in the order agents, sessions, runs, and then the rest."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, exists, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline_queue.core import transitions
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import LeasePolicy
from towline_queue.core.reports import Progress
from towline_queue.core.sessions import (
    Attempt,
    CurrentSession,
    HeldLease,
    Inventory,
    InventoryEntry,
    Reconciliation,
    admit,
    reconcile,
)
from towline_queue.core.transitions import ACTIVE
from towline_queue.storage import attempts as attempt_storage
from towline_queue.storage.attempts import GivenBack
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import agents, leases, queues, runs, sessions

__all__ = [
    "LiveLease",
    "Newcomer",
    "Opened",
    "Reconciled",
    "Renewal",
    "cancels",
    "leave",
    "open_session",
    "queue_specs",
    "reconcile_inventory",
    "renew",
]


@dataclass(frozen=True)
class Newcomer:
    """Who opens a session, from its Hello.

    Attributes:
        agent: "agents/{agent}".
        instance_id: Tells a restart from another agent of the same name.
        boot_id: This boot of the node.
        fresh: Whether the process has just started, so that an operator's drain no longer holds.
        facts: The remaining columns of `agents`.
    """

    agent: str
    instance_id: str
    boot_id: str
    fresh: bool
    facts: dict[str, Any]


@dataclass(frozen=True)
class Reconciled:
    """An inventory compared with the database, and what changed by it."""

    outcome: Reconciliation
    given_back: list[GivenBack]


@dataclass(frozen=True)
class Opened:
    """A session that is open."""

    epoch: int
    draining: bool
    reconciled: Reconciled


@dataclass(frozen=True)
class LiveLease:
    """One lease of a session; `spec`, the serialized LaunchSpec, is there if the run is to be stopped."""

    key: AttemptKey
    session: UUID
    spec: bytes | None


@dataclass(frozen=True)
class Renewal:
    """One session renewed."""

    draining: bool
    leases: list[LiveLease]


async def queue_specs(connection: AsyncConnection, names: Collection[str]) -> dict[str, bytes]:
    """Return the serialized QueueSpec of each queue that exists."""
    rows = await connection.execute(select(queues.c.name, queues.c.spec).where(queues.c.name.in_(names)))
    return {row.name: row.spec for row in rows}


async def open_session(
    connection: AsyncConnection,
    session: UUID,
    newcomer: Newcomer,
    entries: Sequence[InventoryEntry],
    policy: LeasePolicy,
) -> Opened:
    """Give an agent's name to a new session, which fences the one before it, and settle its leases.

    Raises:
        AlreadyExists: Another instance has the name and was heard lately; reason AGENT_ID_IN_USE.
    """
    before = await _lock_agent(connection, newcomer)
    admit(newcomer.agent, newcomer.instance_id, _current(before))
    same_instance = before.instance_id == newcomer.instance_id
    if same_instance:  # all leases are settled below, so nothing of the sessions before is needed
        await connection.execute(delete(sessions).where(sessions.c.agent == newcomer.agent))
    epoch = before.session_epoch + 1
    draining = before.draining and not newcomer.fresh
    await connection.execute(
        update(agents)
        .where(agents.c.name == newcomer.agent)
        .values(
            instance_id=newcomer.instance_id,
            boot_id=newcomer.boot_id,
            session=session,
            session_epoch=epoch,
            draining=draining,
            **newcomer.facts,
        )
    )
    await connection.execute(
        upsert(sessions).values(
            id=session,
            agent=newcomer.agent,
            epoch=epoch,
            seen_time=func.now(),
            expires_at=func.now() + policy.lost_after,
            disconnected_after=policy.disconnected_after,
            ttl=policy.lost_after,
        )
    )
    inventory = Inventory(entries, speaks_for=None if same_instance else frozenset())
    reconciled = await reconcile_inventory(connection, session, newcomer.agent, inventory)
    return Opened(epoch, draining, reconciled)


async def _lock_agent(connection: AsyncConnection, newcomer: Newcomer) -> Row[Any]:
    """Lock the agent's row, made if it is new, and read it with its session."""
    await connection.execute(
        upsert(agents)
        .values(
            name=newcomer.agent,
            instance_id=newcomer.instance_id,
            boot_id=newcomer.boot_id,
            **newcomer.facts,
        )
        .on_conflict_do_nothing()
    )
    await connection.execute(select(agents.c.name).where(agents.c.name == newcomer.agent).with_for_update())
    # Read after the lock is held: a statement that waits for it reads its joins as they were before.
    return (
        await connection.execute(
            select(
                agents.c.instance_id,
                agents.c.hostname,
                agents.c.session,
                agents.c.session_epoch,
                agents.c.draining,
                sessions.c.disconnected_after,
                (func.now() - sessions.c.seen_time).label("silence"),
            )
            .select_from(agents.outerjoin(sessions, sessions.c.id == agents.c.session))
            .where(agents.c.name == newcomer.agent)
        )
    ).one()


def _current(row: Row[Any]) -> CurrentSession | None:
    if row.silence is None:
        return None
    return CurrentSession(row.instance_id, row.hostname, row.silence, row.disconnected_after)


async def reconcile_inventory(
    connection: AsyncConnection, session: UUID, agent: str, inventory: Inventory
) -> Reconciled:
    """Settle an agent's leases by what it holds: some become this session's, missing ones are over."""
    entry_keys = [entry.key for entry in inventory.entries if entry.key is not None]
    held = await connection.execute(
        select(leases.c.run, leases.c.epoch, leases.c.accepted, runs.c.cancel_requested)
        .join(runs, runs.c.name == leases.c.run)
        .where(leases.c.agent == agent)
        .order_by(runs.c.name)
        .with_for_update(of=runs, key_share=True)
    )
    held_leases = [
        HeldLease(AttemptKey(row.run, row.epoch), row.accepted, row.cancel_requested) for row in held
    ]
    known = await connection.execute(
        select(runs.c.name).where(runs.c.name.in_({key.run for key in entry_keys}))
    )
    finished = await attempt_storage.finish_ids(connection, entry_keys)
    outcome = reconcile(
        inventory,
        held_leases,
        {key: Attempt(finished=finish_id is not None) for key, finish_id in finished.items()},
        {row.name for row in known},
    )
    await _adopt(connection, session, outcome)
    given_back = []
    if outcome.never_started:
        details = dict.fromkeys(outcome.never_started, f"{agent} reconnected and had not started it.")
        given_back += await attempt_storage.give_back(connection, transitions.RETURN, details)
    if outcome.lost:
        details = dict.fromkeys(outcome.lost, f"{agent} reconnected and no longer has it.")
        given_back += await attempt_storage.give_back(connection, transitions.REQUEUE_LOST, details)
    return Reconciled(outcome, given_back)


async def _adopt(connection: AsyncConnection, session: UUID, outcome: Reconciliation) -> None:
    if not outcome.adopted:
        return
    await connection.execute(
        update(leases)
        .where(tuple_(leases.c.run, leases.c.epoch).in_(list(outcome.adopted)))
        .values(session=session, accepted=True)
    )
    progress = [
        Progress(key, event_seq=0, state=state, passed=frozenset({state}))
        for key, state in outcome.adopted.items()
        if state in ACTIVE
    ]
    if progress:
        await attempt_storage.advance(connection, progress)


async def renew(connection: AsyncConnection, agent_of_session: dict[UUID, str]) -> dict[UUID, Renewal]:
    """Renew sessions and read their leases; a session that is left out has been superseded."""
    ids = list(agent_of_session)
    renewed = {
        row.id: Renewal(row.draining, [])
        for row in await connection.execute(statement("session_renew"), {"sessions": ids})
    }
    # A statement of its own: it must see what the reaper committed while the renewal waited for it.
    rows = await connection.execute(
        statement("session_leases"), {"sessions": ids, "agents": list(agent_of_session.values())}
    )
    for row in rows:
        if row.session in renewed:
            lease = LiveLease(AttemptKey(row.run, row.epoch), row.session, row.spec)
            renewed[row.session].leases.append(lease)
    return renewed


async def cancels(connection: AsyncConnection, run_names: Collection[str]) -> list[LiveLease]:
    """Return the leases on those of the runs that are to be stopped."""
    rows = await connection.execute(
        select(leases.c.run, leases.c.epoch, leases.c.session, runs.c.spec)
        .join(runs, runs.c.name == leases.c.run)
        .where(leases.c.run.in_(run_names), runs.c.cancel_requested)
    )
    return [LiveLease(AttemptKey(row.run, row.epoch), row.session, row.spec) for row in rows]


async def leave(connection: AsyncConnection, session: UUID, agent: str) -> bool:
    """End a session whose agent said good-bye and holds nothing; return whether it did."""
    left = await connection.execute(
        update(agents)
        .where(
            agents.c.name == agent,
            agents.c.session == session,
            ~exists().where(leases.c.agent == agents.c.name),
        )
        .values(session=None)
    )
    return left.rowcount == 1
