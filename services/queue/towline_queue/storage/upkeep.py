"""What time does to runs: sessions expire, grants go unanswered, schedules fall due, answers grow old.

Every function may run on several replicas at once: rows are locked and their conditions hold until the
transaction ends.
"""

from datetime import timedelta
from typing import Final

from sqlalchemy import delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.transitions import PROMOTE, REQUEUE_LOST, RETURN
from towline_queue.storage.attempts import GivenBack, give_back
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import agents, leases, requests, runs, sessions

__all__ = ["forget_requests", "forget_sessions", "promote", "take_back_lost", "take_back_unanswered"]

# Enough for any sweep to catch up, few enough to keep its transaction short.
_MOST: Final = 1000
_KEEP_REQUESTS: Final = timedelta(days=7)


async def take_back_lost(connection: AsyncConnection, healthy_for: timedelta) -> list[GivenBack]:
    """End the attempts of sessions that have expired.

    Args:
        connection: The transaction.
        healthy_for: How long sessions could have renewed without a break; those with a longer TTL are
            spared, for their silence may be this service's.
    """
    rows = await connection.execute(statement("upkeep_expired"), {"healthy_for": healthy_for, "most": _MOST})
    details = {
        AttemptKey(row.run, row.epoch): f"{row.agent} was silent for over {row.ttl.total_seconds():g} s."
        for row in rows
    }
    return await give_back(connection, REQUEUE_LOST, details) if details else []


async def take_back_unanswered(connection: AsyncConnection, reply_within: timedelta) -> list[GivenBack]:
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


async def promote(connection: AsyncConnection) -> list[tuple[str, str]]:
    """Let scheduled runs that are due wait for an agent; return their names and queues."""
    rows = await connection.execute(
        statement("upkeep_promote"),
        {"sources": sorted(PROMOTE.sources), "target": PROMOTE.target, "most": _MOST},
    )
    return [(row.run, row.queue) for row in rows]


async def forget_requests(connection: AsyncConnection) -> int:
    """Drop answers to requests that nobody repeats any more; return how many."""
    old = select(requests.c.ctid).where(requests.c.create_time < func.now() - _KEEP_REQUESTS).limit(_MOST)
    return (await connection.execute(delete(requests).where(requests.c.ctid.in_(old)))).rowcount


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
