"""What time does to runs: sessions expire, grants go unanswered, schedules fall due, answers grow old.

Every function may run on several replicas at once: rows are locked and their conditions hold until the
transaction ends.
"""

from datetime import timedelta
from typing import Final

from sqlalchemy import delete, exists, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.v1 import runs_pb2
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import Ended, Ready
from towline_queue.core.transitions import ACTIVE, EXPIRE_WAITING, PROMOTE, RETURN
from towline_queue.storage.attempts import Lost, give_back, lose
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import agents, leases, requests, runs, sessions

__all__ = [
    "expire_waiting",
    "forget_requests",
    "forget_sessions",
    "preempt_overdue_drains",
    "promote",
    "take_back_lost",
    "take_back_unanswered",
]

# Enough for any sweep to catch up, few enough to keep its transaction short.
_MOST: Final = 1000
_KEEP_REQUESTS: Final = timedelta(days=7)
_WAITED_TOO_LONG: Final = runs_pb2.Failure(
    cause=runs_pb2.FAILURE_CAUSE_TIMEOUT,
    message="No agent took it within its limits.max_wait; see that agents serve the queue and have room, "
    "or let it wait longer.",
).SerializeToString()


async def take_back_lost(connection: AsyncConnection, healthy_for: timedelta) -> list[Ended]:
    """End the attempts whose leases have expired.

    Args:
        connection: The transaction.
        healthy_for: How long sessions could have renewed without a break; leases that hold for longer
            are spared, for the silence may be this service's.
    """
    rows = await connection.execute(statement("upkeep_expired"), {"healthy_for": healthy_for, "most": _MOST})
    expired = [
        Lost(
            key=AttemptKey(row.run, row.epoch),
            why=f"{row.agent} was silent for over {row.lost_after.total_seconds():g} s.",
            session=row.session,
        )
        for row in rows
    ]
    return await lose(connection, expired) if expired else []


async def take_back_unanswered(connection: AsyncConnection, reply_within: timedelta) -> list[Ended]:
    """End the leases that an agent, heard since, has neither taken nor refused."""
    rows = await connection.execute(
        statement("upkeep_unanswered"), {"reply_within": reply_within, "most": _MOST}
    )
    details = {
        AttemptKey(
            row.run, row.epoch
        ): f"{row.agent} did not answer within {reply_within.total_seconds():g} s."
        for row in rows
    }
    if not details:
        return []
    # A statement of its own: an answer that is being committed holds this lock, and the next
    # statement must see it.
    await connection.execute(
        select(runs.c.name)
        .where(runs.c.name.in_({key.run for key in details}))
        .order_by(runs.c.name)
        .with_for_update(key_share=True)
    )
    return await give_back(connection, RETURN, details, unanswered=True)


async def promote(connection: AsyncConnection) -> list[Ready]:
    """Let scheduled runs that are due wait for an agent: first attempts and retries."""
    rows = await connection.execute(
        statement("upkeep_promote"),
        {"sources": sorted(PROMOTE.sources), "target": PROMOTE.target, "most": _MOST},
    )
    return [Ready(row.run, row.queue) for row in rows]


async def expire_waiting(connection: AsyncConnection) -> list[str]:
    """Fail runs that have waited for an agent longer than their `max_wait`; return their names."""
    rows = await connection.execute(
        statement("upkeep_expire_waiting"),
        {
            "sources": sorted(EXPIRE_WAITING.sources),
            "target": EXPIRE_WAITING.target,
            "failure": _WAITED_TOO_LONG,
            "most": _MOST,
        },
    )
    return list(rows.scalars())


async def preempt_overdue_drains(connection: AsyncConnection) -> list[str]:
    """Have the attempts of agents whose drain deadline has passed preempted; return the runs' names."""
    rows = await connection.execute(
        statement("upkeep_overdue_drains"), {"active": sorted(ACTIVE), "most": _MOST}
    )
    return list(rows.scalars())


async def forget_requests(connection: AsyncConnection) -> int:
    """Drop answers to requests that nobody repeats any more; return how many."""
    key = (requests.c.method, requests.c.request_id)
    old = select(*key).where(requests.c.create_time < func.now() - _KEEP_REQUESTS).limit(_MOST)
    return (await connection.execute(delete(requests).where(tuple_(*key).in_(old)))).rowcount


async def forget_sessions(connection: AsyncConnection) -> int:
    """Drop sessions that were followed by another and hold nothing any more; return how many."""
    gone = await connection.execute(
        delete(sessions).where(
            agents.c.name == sessions.c.agent,
            agents.c.session_epoch > sessions.c.epoch,
            ~exists().where(leases.c.agent == sessions.c.agent, leases.c.session == sessions.c.id),
        )
    )
    return gone.rowcount
