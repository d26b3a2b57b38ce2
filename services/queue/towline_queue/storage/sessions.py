"""Sessions in PostgreSQL. Locks are taken in the order agents, sessions, runs, and then the rest."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, exists, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.v1 import queues_pb2, runs_pb2
from towline_queue.core import transitions
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import LeasePolicy, policy_of
from towline_queue.core.leases import (
    LiveLease,
    Newcomer,
    Opened,
    Reconciled,
    Renewal,
    SessionKey,
    session_policy,
)
from towline_queue.core.reports import Progress
from towline_queue.core.sessions import (
    Attempt,
    CurrentSession,
    HeldLease,
    Inventory,
    InventoryEntry,
    Reconciliation,
    admit,
    check_order,
    reconcile,
)
from towline_queue.core.stops import Stop, StopReason, stop_reason
from towline_queue.core.transitions import ACTIVE
from towline_queue.storage import attempts as attempt_storage
from towline_queue.storage.attempts import Lost
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import agents, leases, queues, runs, sessions

__all__ = ["drain", "leave", "open_session", "renew", "settle", "stops"]

_Row = Row[*tuple[Any, ...]]


async def open_session(
    connection: AsyncConnection,
    session: UUID,
    newcomer: Newcomer,
    served: Sequence[str],
    entries: Sequence[InventoryEntry],
) -> Opened:
    """Give an agent's name to a new session, which fences the one before it, and settle its leases.

    Raises:
        NotFound: None of the queues it serves exists; QUEUE_NOT_FOUND.
        AlreadyExists: Another instance has the name and was heard lately; reason AGENT_ID_IN_USE.
    """
    policy, missing = session_policy(await _policies(connection, served), served)
    before = await _lock_agent(connection, newcomer)
    admit(newcomer.agent, newcomer.instance_id, _current(before))
    same_instance = before.instance_id == newcomer.instance_id
    if same_instance:
        check_order(newcomer.agent, newcomer.hello_seq, before.hello_seq)
        # All leases are settled below, so nothing of the sessions before is needed.
        await connection.execute(delete(sessions).where(sessions.c.agent == newcomer.agent))
    epoch = before.session_epoch + 1
    draining = before.draining and not newcomer.fresh
    await connection.execute(
        update(agents)
        .where(agents.c.name == newcomer.agent)
        .values(
            instance_id=newcomer.instance_id,
            boot_id=newcomer.boot_id,
            hello_seq=newcomer.hello_seq,
            session=session,
            session_epoch=epoch,
            draining=draining,
            drain_deadline=agents.c.drain_deadline if draining else None,
            **newcomer.facts,
        )
    )
    await connection.execute(
        upsert(sessions).values(
            id=session,
            agent=newcomer.agent,
            epoch=epoch,
            seen_time=func.now(),
            disconnected_after=policy.disconnected_after,
        )
    )
    inventory = Inventory(entries, speaks_for=None if same_instance else frozenset())
    reconciled = await _reconcile(connection, SessionKey(session, newcomer.agent), inventory)
    return Opened(epoch, draining, policy, missing, reconciled)


async def _policies(connection: AsyncConnection, names: Collection[str]) -> dict[str, LeasePolicy]:
    rows = await connection.execute(select(queues.c.name, queues.c.spec).where(queues.c.name.in_(names)))
    return {row.name: policy_of(queues_pb2.QueueSpec.FromString(row.spec).lease_policy) for row in rows}


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
                agents.c.hello_seq,
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


async def settle(connection: AsyncConnection, session: SessionKey, inventory: Inventory) -> Reconciled | None:
    """Compare an open session's inventory with its leases; None if the session was superseded."""
    current = await connection.execute(
        select(agents.c.name)
        .where(agents.c.name == session.agent, agents.c.session == session.id)
        .with_for_update(read=True)
    )
    if current.one_or_none() is None:
        return None
    return await _reconcile(connection, session, inventory)


async def _reconcile(connection: AsyncConnection, session: SessionKey, inventory: Inventory) -> Reconciled:
    """Settle an agent's leases by what it holds: some become this session's, missing ones are over."""
    entry_keys = [entry.key for entry in inventory.entries if entry.key is not None]
    held = await connection.execute(
        select(
            leases.c.run,
            leases.c.epoch,
            leases.c.accepted,
            runs.c.cancel_requested,
            runs.c.preempt_epoch,
        )
        .join(runs, runs.c.name == leases.c.run)
        # Of the run too, for it is read again once its lock is held, and its lease may be gone by then.
        .where(
            leases.c.agent == session.agent,
            runs.c.epoch == leases.c.epoch,
            runs.c.state.in_(ACTIVE),
        )
        .order_by(runs.c.name)
        .with_for_update(of=runs, key_share=True)
    )
    held_leases = [HeldLease(AttemptKey(row.run, row.epoch), row.accepted, _stop_reason(row)) for row in held]
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
    await _adopt(connection, session.id, outcome)
    ended = []
    if outcome.never_started:
        details = dict.fromkeys(outcome.never_started, f"{session.agent} reconnected and had not started it.")
        ended += await attempt_storage.give_back(connection, transitions.RETURN, details)
    if outcome.lost:
        why = f"{session.agent} reconnected and no longer has it."
        ended += await attempt_storage.lose(connection, [Lost(key, why) for key in outcome.lost])
    return Reconciled(outcome, ended)


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


async def renew(connection: AsyncConnection, keys: Sequence[SessionKey]) -> list[Renewal | None]:
    """Renew sessions, one answer each, in order, and read their leases; None: superseded."""
    ids = [key.id for key in keys]
    draining = {
        row.id: row.draining
        for row in await connection.execute(statement("session_renew"), {"sessions": ids})
    }
    # A statement of its own: it must see what the reaper committed while the renewal waited for it.
    rows = await connection.execute(
        statement("session_leases"), {"sessions": ids, "agents": [key.agent for key in keys]}
    )
    held: dict[UUID, list[LiveLease]] = {id_: [] for id_ in ids}
    for row in rows:
        held[row.session].append(_live_lease(row))
    return [Renewal(draining[id_], held[id_]) if id_ in draining else None for id_ in ids]


async def stops(connection: AsyncConnection, run_names: Collection[str]) -> list[LiveLease]:
    """Return the leases on those of the runs whose attempts are to be stopped."""
    rows = await connection.execute(
        select(
            leases.c.run,
            leases.c.epoch,
            leases.c.session,
            runs.c.cancel_requested,
            runs.c.preempt_epoch,
            runs.c.spec,
        )
        .join(runs, runs.c.name == leases.c.run)
        .where(
            leases.c.run.in_(run_names),
            or_(runs.c.cancel_requested, runs.c.preempt_epoch == leases.c.epoch),
        )
    )
    return [_live_lease(row) for row in rows]


def _stop_reason(row: _Row) -> StopReason | None:
    return stop_reason(row.epoch, cancel_requested=row.cancel_requested, preempt_epoch=row.preempt_epoch)


def _live_lease(row: _Row) -> LiveLease:
    """Read a lease with its run's wish to stop, and the spec that goes with it, for its grace."""
    reason = _stop_reason(row)
    stop = None
    if reason is not None:
        stop = Stop(reason, runs_pb2.LaunchSpec.FromString(row.spec).stop_grace.ToTimedelta())
    return LiveLease(AttemptKey(row.run, row.epoch), row.session, stop)


async def leave(connection: AsyncConnection, session: SessionKey) -> bool:
    """End a session whose agent said good-bye and holds nothing; return whether it did."""
    left = await connection.execute(
        update(agents)
        .where(
            agents.c.name == session.agent,
            agents.c.session == session.id,
            ~exists().where(leases.c.agent == agents.c.name),
        )
        .values(session=None)
    )
    return left.rowcount == 1


async def drain(connection: AsyncConnection, session: SessionKey) -> None:
    """Keep an agent from getting runs until its process is started anew, as its current session asks."""
    await connection.execute(
        update(agents)
        .where(agents.c.name == session.agent, agents.c.session == session.id)
        .values(draining=True)
    )
