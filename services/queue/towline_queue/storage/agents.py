"""Agents in PostgreSQL, as people see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, and_, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import NotFound
from towline.names import AgentName
from towline_queue.storage.statements import REACHABLE
from towline_queue.storage.tables import agents, leases, sessions

__all__ = ["StoredAgent", "drain_by", "get", "page"]


@dataclass(frozen=True)
class StoredAgent:
    """An agent as it is now.

    Attributes:
        name: "agents/{agent}".
        hostname: Of its node.
        version: Of its software.
        queues: "queues/{queue}" it serves.
        capacity: Serialized Capacity.
        gpus: Serialized Gpu each.
        labels: Of its node.
        draining: Whether it takes no more runs.
        drain_deadline: When the runs left are preempted, while it drains; None: never.
        withheld: Why it takes no runs now; empty: it does.
        reachable: Whether its session was heard from lately.
        seen_time: Last sign of life.
        runs: "runs/{run}" it holds.
    """

    name: str
    hostname: str
    version: str
    queues: Sequence[str]
    capacity: bytes
    gpus: Sequence[bytes]
    labels: dict[str, str]
    draining: bool
    drain_deadline: datetime | None
    withheld: str
    reachable: bool
    seen_time: datetime | None
    runs: Sequence[str]


_HELD: Final = func.array(
    select(leases.c.run).where(leases.c.agent == agents.c.name).order_by(leases.c.run).scalar_subquery()
)
# By epoch, not by id: the last session of an agent that has left still says when it was seen.
_QUERY: Final = select(
    agents,
    func.coalesce(and_(agents.c.session == sessions.c.id, REACHABLE), False).label("reachable"),
    sessions.c.seen_time,
    _HELD.label("runs"),
).select_from(
    agents.outerjoin(
        sessions, and_(sessions.c.agent == agents.c.name, sessions.c.epoch == agents.c.session_epoch)
    )
)


async def get(connection: AsyncConnection, name: AgentName) -> StoredAgent:
    """Return an agent; NotFound/AGENT_NOT_FOUND if there is none."""
    row = (await connection.execute(_QUERY.where(agents.c.name == name))).one_or_none()
    if row is None:
        raise _not_found(name)
    return _stored(row)


async def page(connection: AsyncConnection, *, after: str | None, size: int) -> list[StoredAgent]:
    """Return up to `size` agents by name, those after `after`."""
    query = _QUERY.order_by(agents.c.name).limit(size)
    if after is not None:
        query = query.where(agents.c.name > after)
    return [_stored(row) for row in (await connection.execute(query)).all()]


async def drain_by(connection: AsyncConnection, name: AgentName, deadline: timedelta | None) -> None:
    """Drain an agent as somebody asked: the runs that are left after `deadline` are preempted.

    Args:
        connection: The transaction.
        name: The agent; NotFound/AGENT_NOT_FOUND.
        deadline: From now; None: its runs may take as long as they need. It replaces one given before.
    """
    by = None if deadline is None else func.now() + deadline
    marked = await connection.execute(
        update(agents).where(agents.c.name == name).values(draining=True, drain_deadline=by)
    )
    if marked.rowcount == 0:
        raise _not_found(name)


def _stored(row: Row[Any]) -> StoredAgent:
    return StoredAgent(**{name: getattr(row, name) for name in StoredAgent.__dataclass_fields__})


def _not_found(name: str) -> NotFound:
    return NotFound(
        f"{name} has never connected; `towline agent list` shows those that have",
        reason="AGENT_NOT_FOUND",
        metadata={"agent": name},
    )
