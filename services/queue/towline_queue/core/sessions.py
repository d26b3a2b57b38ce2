"""What opening a session decides: who may have an agent's name, and what becomes of its leases.

Whether an agent is silent is not a state but a question to the database at the moment of reading: its
session's `seen_time + disconnected_after` has passed, or it has no session.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final

from towline.errors import Aborted, AlreadyExists
from towline_queue.core.lease_ids import AttemptKey, lease_id
from towline_queue.core.stops import StopReason
from towline_queue.core.transitions import State

__all__ = [
    "Attempt",
    "CurrentSession",
    "HeldLease",
    "Inventory",
    "InventoryEntry",
    "Reconciliation",
    "VerdictKind",
    "admit",
    "check_order",
    "lease_set_digest",
    "reconcile",
]


@dataclass(frozen=True)
class CurrentSession:
    """The session that has an agent's name now."""

    instance_id: str
    hostname: str
    silence: timedelta
    """Since its last committed renewal."""
    disconnected_after: timedelta


def admit(agent: str, instance_id: str, current: CurrentSession | None) -> None:
    """Decide whether a newcomer gets an agent's name: it is the same instance, or nobody else is alive.

    Raises:
        AlreadyExists: Another instance renewed its session lately; reason AGENT_ID_IN_USE.
    """
    if current is None or current.instance_id == instance_id or current.silence >= current.disconnected_after:
        return
    wait = (current.disconnected_after - current.silence).total_seconds()
    raise AlreadyExists(
        f"{agent} is connected from host {current.hostname!r} with another data folder; give this agent "
        f"another name, or stop that one and try again in {wait:.0f} s",
        reason="AGENT_ID_IN_USE",
        metadata={"agent": agent, "hostname": current.hostname},
    )


def check_order(agent: str, hello_seq: int, last_seq: int) -> None:
    """Refuse a Hello that was delayed until a later one of the same instance had opened a session.

    It would fence that session, and its inventory would end the leases granted since, whose containers run.

    Args:
        agent: Whose Hello it is.
        hello_seq: Its number; 0: not told.
        last_seq: The number of the instance's last one that was admitted.

    Raises:
        Aborted: HELLO_OUT_OF_DATE.
    """
    if 0 < hello_seq < last_seq:
        raise Aborted(
            f"{agent} has said hello again since (number {last_seq}, this is {hello_seq}); connect again. "
            "If its data folder was restored from a copy, remove agent.json from it",
            reason="HELLO_OUT_OF_DATE",
            metadata={"agent": agent},
        )


class VerdictKind(Enum):
    """What an agent does with one entry of its inventory, see towline.v1.VerdictAction."""

    ADOPT = "adopt"
    STOP_STALE = "stop stale"
    STOP_CANCELLED = "stop cancelled"
    STOP_PREEMPTED = "stop preempted"
    STOP_UNKNOWN = "stop unknown"
    FINISH_CONFIRMED = "finish confirmed"


_HELD: Final = {
    None: VerdictKind.ADOPT,
    StopReason.CANCELLED: VerdictKind.STOP_CANCELLED,
    StopReason.PREEMPTED: VerdictKind.STOP_PREEMPTED,
}
"""Verdict on a lease that is the agent's, by why it is to be stopped."""


@dataclass(frozen=True)
class InventoryEntry:
    """One lease in an agent's hands, as the agent tells it."""

    lease_id: str
    epoch: int
    key: AttemptKey | None
    """None: the queue never made such a lease id."""
    state: State


@dataclass(frozen=True)
class Inventory:
    """All that an agent holds.

    Attributes:
        entries: One per lease.
        speaks_for: Leases that are gone from the node if no entry names them; None: all of the agent's.
            An instance that is new to the name cannot speak for the one before it, and nobody for
            a grant he may not have heard of.
    """

    entries: Sequence[InventoryEntry]
    speaks_for: Set[AttemptKey] | None = None


@dataclass(frozen=True)
class HeldLease:
    """One lease of an agent, as the database has it."""

    key: AttemptKey
    accepted: bool
    stop: StopReason | None
    """Why it is to be stopped, if it is."""


@dataclass(frozen=True)
class Attempt:
    """What the database knows about an attempt in an inventory that is no lease of the agent."""

    finished: bool
    """Whether its result, sent by an agent, is committed."""


@dataclass(frozen=True)
class Reconciliation:
    """What becomes of each entry and each lease.

    Attributes:
        verdicts: One per entry, in its order.
        adopted: Leases that go on, with the state that the agent tells.
        never_started: Leases that the agent never took; their runs wait again.
        lost: Leases that the agent took and no longer has.
    """

    verdicts: list[tuple[InventoryEntry, VerdictKind]]
    adopted: dict[AttemptKey, State]
    never_started: list[AttemptKey]
    lost: list[AttemptKey]


def reconcile(
    inventory: Inventory,
    leases: Iterable[HeldLease],
    others: Mapping[AttemptKey, Attempt],
    known_runs: Set[str],
) -> Reconciliation:
    """Compare an agent's inventory with the leases it has in the database.

    Args:
        inventory: What the agent says.
        leases: What the database says it holds.
        others: Attempts of the inventory that are none of these leases, where they are known.
        known_runs: Names of the inventory's runs that exist.
    """
    held = {lease.key: lease for lease in leases}
    verdicts = [(entry, _verdict(entry, held, others, known_runs)) for entry in inventory.entries]
    adopted = {
        entry.key: entry.state for entry, verdict in verdicts if entry.key and verdict in _HELD.values()
    }
    missing = [
        lease
        for key, lease in held.items()
        if key not in adopted and (inventory.speaks_for is None or key in inventory.speaks_for)
    ]
    return Reconciliation(
        verdicts=verdicts,
        adopted=adopted,
        never_started=[lease.key for lease in missing if not lease.accepted],
        lost=[lease.key for lease in missing if lease.accepted],
    )


def _verdict(
    entry: InventoryEntry,
    held: Mapping[AttemptKey, HeldLease],
    others: Mapping[AttemptKey, Attempt],
    known_runs: Set[str],
) -> VerdictKind:
    if entry.key is None or entry.key.run not in known_runs:
        return VerdictKind.STOP_UNKNOWN
    lease = held.get(entry.key)
    if lease is not None:
        return _HELD[lease.stop]
    other = others.get(entry.key)
    return VerdictKind.FINISH_CONFIRMED if other and other.finished else VerdictKind.STOP_STALE


def lease_set_digest(keys: Iterable[AttemptKey]) -> str:
    r"""Compute Heartbeat.lease_set_digest: sha256, hex, of the sorted "lease_id:epoch\n" lines."""
    lines = sorted(f"{lease_id(key)}:{key.epoch}\n" for key in keys)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
