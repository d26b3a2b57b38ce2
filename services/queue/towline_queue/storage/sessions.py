"""Sessions in PostgreSQL. Locks are taken in the order agents, sessions, leases, and then the rest."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from towline.errors import TowlineError
from towline.v1 import queues_pb2, runs_pb2
from towline_queue.core import transitions
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import LeasePolicy, policy_of
from towline_queue.core.leases import (
    Ended,
    LiveLease,
    Newcomer,
    Opened,
    Opening,
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
    Reconciliation,
    admit,
    check_order,
    reconcile,
)
from towline_queue.core.stops import Stop, StopReason
from towline_queue.core.transitions import ACTIVE
from towline_queue.storage import attempts
from towline_queue.storage.attempts import Lost
from towline_queue.storage.database import Database, Row, Transaction

__all__ = ["drain", "leave", "open_sessions", "renew", "settle", "stops", "withhold"]


@dataclass(frozen=True)
class _Terms:
    """A session to be opened, and what would hold for it."""

    opening: Opening
    policy: LeasePolicy
    missing_queues: tuple[str, ...]


@dataclass(frozen=True)
class _Entrant:
    """A newcomer that gets its agent's name."""

    terms: _Terms
    epoch: int
    draining: bool
    same_instance: bool

    @property
    def inventory(self) -> Inventory:
        """What the agent holds; an instance that is new to the name cannot speak for others' leases."""
        return Inventory(self.terms.opening.entries, speaks_for=None if self.same_instance else frozenset())


async def open_sessions(transaction: Transaction, openings: Sequence[Opening]) -> list[Opened | TowlineError]:
    """Give agents' names to new sessions, which fences those before them, and settle their leases.

    One answer each, in order; an error, as `LeaseStore` tells them, is that newcomer's alone.
    """
    policies = await _policies(transaction, {queue for opening in openings for queue in opening.queues})
    answers: dict[UUID, Opened | TowlineError] = {}
    rest: list[_Terms] = []
    for opening in openings:
        try:
            rest.append(_Terms(opening, *session_policy(policies, opening.queues)))
        except TowlineError as error:
            answers[opening.session] = error
    while rest:  # once, unless an agent is there twice: then its later session fences the earlier
        first = {terms.opening.newcomer.agent: terms for terms in reversed(rest)}
        answers |= await _open(transaction, first)
        rest = [terms for terms in rest if first[terms.opening.newcomer.agent] is not terms]
    return [answers[opening.session] for opening in openings]


async def _open(transaction: Transaction, wanted: Mapping[str, _Terms]) -> dict[UUID, Opened | TowlineError]:
    """Open one session for each of these agents."""
    answers: dict[UUID, Opened | TowlineError] = {}
    newcomers = {agent: terms.opening.newcomer for agent, terms in wanted.items()}
    rows = await _lock_agents(transaction, newcomers)
    current = await _others(transaction, newcomers, rows)
    entrants: list[_Entrant] = []
    for agent in sorted(wanted):
        try:
            entrants.append(_admit(wanted[agent], rows[agent], current.get(agent)))
        except TowlineError as error:
            answers[wanted[agent].opening.session] = error
    await transaction.each("session_enter", [_columns(entrant) for entrant in entrants])
    reconciled = await _reconcile(
        transaction, {_key(entrant.terms.opening): entrant.inventory for entrant in entrants}
    )
    for entrant in entrants:
        terms, session = entrant.terms, entrant.terms.opening.session
        answers[session] = Opened(
            entrant.epoch, entrant.draining, terms.policy, terms.missing_queues, reconciled[session]
        )
    return answers


def _key(opening: Opening) -> SessionKey:
    return SessionKey(opening.session, opening.newcomer.agent)


async def _policies(transaction: Transaction, queues: Collection[str]) -> dict[str, LeasePolicy]:
    rows = await transaction.rows("session_policies", queues=list(queues))
    return {row["name"]: policy_of(queues_pb2.QueueSpec.FromString(row["spec"]).lease_policy) for row in rows}


async def _lock_agents(transaction: Transaction, newcomers: Mapping[str, Newcomer]) -> dict[str, Row]:
    """Lock the agents' rows, made where they are new, and read them."""
    rows = {row["name"]: row for row in await transaction.rows("session_agents", agents=list(newcomers))}
    new = sorted(newcomers.keys() - rows)
    if new:
        await transaction.each("session_introduce", [_facts(newcomers[agent]) for agent in new])
        # Read then, for somebody else may have made some of them meanwhile.
        made = await transaction.rows("session_agents", agents=new)
        rows |= {row["name"]: row for row in made}
    return rows


async def _others(
    transaction: Transaction, newcomers: Mapping[str, Newcomer], rows: Mapping[str, Row]
) -> dict[str, CurrentSession]:
    """Read the sessions that stand in the way of newcomers: those of other instances."""
    others = {
        rows[agent]["session"]: rows[agent]
        for agent, newcomer in newcomers.items()
        if rows[agent]["session"] and rows[agent]["instance_id"] != newcomer.instance_id
    }
    if not others:
        return {}
    found = await transaction.rows("session_silence", sessions=list(others))
    return {
        (agent := others[row["id"]])["name"]: CurrentSession(
            agent["instance_id"], agent["hostname"], row["silence"], row["disconnected_after"]
        )
        for row in found
    }


def _admit(terms: _Terms, row: Row, current: CurrentSession | None) -> _Entrant:
    newcomer = terms.opening.newcomer
    admit(newcomer.agent, newcomer.instance_id, current)
    same_instance = row["instance_id"] == newcomer.instance_id
    if same_instance:
        check_order(newcomer.agent, newcomer.hello_seq, row["hello_seq"])
    draining = row["draining"] and not newcomer.fresh
    return _Entrant(terms, row["session_epoch"] + 1, draining, same_instance)


def _facts(newcomer: Newcomer) -> dict[str, Any]:
    return {
        "agent": newcomer.agent,
        "instance_id": newcomer.instance_id,
        "boot_id": newcomer.boot_id,
        **newcomer.facts,
    }


def _columns(entrant: _Entrant) -> dict[str, Any]:
    newcomer = entrant.terms.opening.newcomer
    return _facts(newcomer) | {
        "labels": json.dumps(newcomer.facts["labels"]),
        "hello_seq": newcomer.hello_seq,
        "session": entrant.terms.opening.session,
        "epoch": entrant.epoch,
        "disconnected_after": entrant.terms.policy.disconnected_after,
        "draining": entrant.draining,
        "same_instance": entrant.same_instance,
    }


async def settle(transaction: Transaction, session: SessionKey, inventory: Inventory) -> Reconciled | None:
    """Compare an open session's inventory with its leases; None if the session was superseded."""
    if not await transaction.rows("session_current", agent=session.agent, session=session.id):
        return None
    return (await _reconcile(transaction, {session: inventory}))[session.id]


async def _reconcile(
    transaction: Transaction, inventories: Mapping[SessionKey, Inventory]
) -> dict[UUID, Reconciled]:
    """Settle agents' leases by what they hold: some become these sessions', missing ones are over."""
    held: dict[str, dict[AttemptKey, HeldLease]] = {session.agent: {} for session in inventories}
    states: dict[AttemptKey, int] = {}
    for row in await transaction.rows("session_held", agents=list(held)):
        key = AttemptKey(row["run"], row["epoch"])
        held[row["agent"]][key] = HeldLease(key, row["accepted"], _stop_reason(row))
        states[key] = row["state"]
    # What was no lease once these were locked has ended, if it ever was one.
    gone = [
        entry.key
        for session, inventory in inventories.items()
        for entry in inventory.entries
        if entry.key is not None and entry.key not in held[session.agent]
    ]
    known = {key.run for key in states}
    finished: Mapping[AttemptKey, UUID | None] = {}
    if gone:
        finished = await attempts.finish_ids(transaction, gone)
        rows = await transaction.rows("session_known", runs=list({key.run for key in gone}))
        known |= {row["name"] for row in rows}
    others = {key: Attempt(finished=finish_id is not None) for key, finish_id in finished.items()}
    outcomes = {
        session: reconcile(inventory, held[session.agent].values(), others, known)
        for session, inventory in inventories.items()
    }
    await _adopt(transaction, outcomes, states)
    ended = await _end(transaction, outcomes)
    return {
        session.id: Reconciled(
            outcome, [ended[key] for key in (*outcome.never_started, *outcome.lost) if key in ended]
        )
        for session, outcome in outcomes.items()
    }


async def _adopt(
    transaction: Transaction,
    outcomes: Mapping[SessionKey, Reconciliation],
    states: Mapping[AttemptKey, int],
) -> None:
    adopted = [
        (session.id, key, state)
        for session, outcome in outcomes.items()
        for key, state in outcome.adopted.items()
    ]
    if not adopted:
        return
    await transaction.rows(
        "session_adopt",
        runs=[key.run for _, key, _ in adopted],
        epochs=[key.epoch for _, key, _ in adopted],
        sessions=[session for session, _, _ in adopted],
    )
    progress = [
        Progress(key, event_seq=0, state=state, passed=frozenset({state}))
        for _, key, state in adopted
        if state in ACTIVE and state != states[key]
    ]
    if progress:
        await attempts.advance(transaction, progress)


async def _end(
    transaction: Transaction, outcomes: Mapping[SessionKey, Reconciliation]
) -> dict[AttemptKey, Ended]:
    never_started = {
        key: f"{session.agent} reconnected and had not started it."
        for session, outcome in outcomes.items()
        for key in outcome.never_started
    }
    lost = [
        Lost(key, f"{session.agent} reconnected and no longer has it.")
        for session, outcome in outcomes.items()
        for key in outcome.lost
    ]
    ended: list[Ended] = []
    if never_started:
        ended += await attempts.give_back(transaction, transitions.RETURN, never_started)
    if lost:
        ended += await attempts.lose(transaction, lost)
    return {one.key: one for one in ended}


async def renew(database: Database, keys: Sequence[SessionKey], *, look: bool) -> list[Renewal | None]:
    """Renew sessions, one answer each, in order, and `look` at their leases; None: superseded."""
    ids = [key.id for key in keys]
    renewed = await database.rows("session_renew", sessions=ids)
    draining = {row["id"]: row["draining"] for row in renewed}
    if not look:
        return [Renewal(draining[id_], None) if id_ in draining else None for id_ in ids]
    # A statement of its own: it must see what the reaper committed while the renewal waited for it.
    rows = await database.rows("session_leases", sessions=ids, agents=[key.agent for key in keys])
    held: dict[UUID, list[LiveLease]] = {id_: [] for id_ in ids}
    for row in rows:
        held[row["session"]].append(_live_lease(row))
    return [Renewal(draining[id_], held[id_]) if id_ in draining else None for id_ in ids]


async def stops(database: Database, runs: Collection[str]) -> list[LiveLease]:
    """Return the leases on those of the runs whose attempts are to be stopped."""
    return [_live_lease(row) for row in await database.rows("session_stops", runs=list(runs))]


def _stop_reason(row: Row) -> StopReason | None:
    requested = row["stop_requested"]
    return None if requested is None else StopReason(requested)


def _live_lease(row: Row) -> LiveLease:
    """Read a lease with the wish to stop it, and the spec that goes with it, for its grace."""
    reason = _stop_reason(row)
    stop = None
    if reason is not None:
        stop = Stop(reason, runs_pb2.LaunchSpec.FromString(row["spec"]).stop_grace.ToTimedelta())
    return LiveLease(AttemptKey(row["run"], row["epoch"]), row["session"], stop)


async def leave(database: Database, session: SessionKey) -> None:
    """End a session whose agent said good-bye and holds nothing; one that holds leases keeps them."""
    await database.rows("session_leave", agent=session.agent, session=session.id)


async def drain(database: Database, session: SessionKey) -> None:
    """Keep an agent from getting runs until its process is started anew, as its current session asks."""
    await database.rows("session_drain", agent=session.agent, session=session.id)


async def withhold(database: Database, session: SessionKey, why: str) -> None:
    """Note why an agent takes no runs now, as its current session says; empty: it does."""
    await database.rows("session_withhold", agent=session.agent, session=session.id, why=why)
