"""What time does to runs: sessions expire, grants go unanswered, schedules fall due, the old is dropped.

Every function may run on several replicas at once: rows are locked and their conditions hold until the
transaction ends.
"""

from datetime import timedelta
from typing import Final

from asyncpg import LockNotAvailableError

from towline.v1 import runs_pb2
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import Ended, Ready
from towline_queue.core.stops import StopReason
from towline_queue.core.transitions import EXPIRE_WAITING, RETURN
from towline_queue.storage.attempts import Lost, give_back, lose
from towline_queue.storage.database import Database, Transaction

__all__ = [
    "expire_waiting",
    "forget_requests",
    "forget_sessions",
    "keep_attempts",
    "preempt_overdue_drains",
    "promote",
    "take_back_lost",
    "take_back_unanswered",
]

# Enough for any sweep to catch up, few enough to keep its transaction short.
_MOST: Final = 1000
_KEEP_REQUESTS: Final = timedelta(days=7)
_LOCK_WITHIN: Final = timedelta(seconds=2)
_WAITED_TOO_LONG: Final = runs_pb2.Failure(
    cause=runs_pb2.FAILURE_CAUSE_TIMEOUT,
    message="No agent took it within its limits.max_wait; see that agents serve the queue and have room, "
    "or let it wait longer.",
).SerializeToString()


async def take_back_lost(transaction: Transaction, healthy_for: timedelta) -> list[Ended]:
    """End the attempts whose leases have expired.

    Args:
        transaction: The transaction.
        healthy_for: How long sessions could have renewed without a break; leases that hold for longer
            are spared, for the silence may be this service's.
    """
    rows = await transaction.rows("upkeep_expired", healthy_for=healthy_for, most=_MOST)
    expired = [
        Lost(
            key=AttemptKey(row["run"], row["epoch"]),
            why=f"{row['agent']} was silent for over {row['lost_after'].total_seconds():g} s.",
            session=row["session"],
        )
        for row in rows
    ]
    return await lose(transaction, expired) if expired else []


async def take_back_unanswered(database: Database | Transaction, reply_within: timedelta) -> list[Ended]:
    """End the leases that an agent, heard since, has neither taken nor refused."""
    rows = await database.rows("upkeep_unanswered", reply_within=reply_within, most=_MOST)
    within = f"within {reply_within.total_seconds():g} s."
    details = {
        AttemptKey(row["run"], row["epoch"]): f"{row['agent']} did not answer {within}" for row in rows
    }
    return await give_back(database, RETURN, details, unanswered=True) if details else []


async def promote(database: Database | Transaction) -> list[Ready]:
    """Let scheduled runs that are due wait for an agent: first attempts and retries."""
    return [Ready(row["run"], row["queue"]) for row in await database.rows("upkeep_promote", most=_MOST)]


async def expire_waiting(database: Database | Transaction) -> list[str]:
    """Fail runs that have waited for an agent longer than their `max_wait`; return their names."""
    rows = await database.rows(
        "upkeep_expire_waiting", target=EXPIRE_WAITING.target, failure=_WAITED_TOO_LONG, most=_MOST
    )
    return [row["run"] for row in rows]


async def preempt_overdue_drains(database: Database | Transaction) -> list[str]:
    """Have the attempts of agents whose drain deadline has passed preempted; return the runs' names."""
    rows = await database.rows("upkeep_overdue_drains", preempted=StopReason.PREEMPTED, most=_MOST)
    return [row["run"] for row in rows]


async def forget_requests(database: Database | Transaction) -> int:
    """Drop answers to requests that nobody repeats any more; return how many."""
    (row,) = await database.rows("upkeep_forget_requests", kept=_KEEP_REQUESTS, most=_MOST)
    return int(row["forgotten"])


async def forget_sessions(database: Database | Transaction) -> int:
    """Drop sessions that were followed by another and hold nothing any more; return how many."""
    (row,) = await database.rows("upkeep_forget_sessions")
    return int(row["forgotten"])


async def keep_attempts(database: Database, keep: timedelta | None) -> bool:
    """Make room for the attempts of months to come, and drop those of months that are over for too long.

    Args:
        database: The database.
        keep: How long the attempts of a month are kept once it is over; None: for ever.

    Returns:
        Whether all was done; not if somebody held a lock for too long, and then it is for the next time.
    """
    within = f"{_LOCK_WITHIN.total_seconds():g}s"
    try:
        # Each by itself: together they could lock in another order than those who write and read.
        for part in ("upkeep_attempts_ahead", "upkeep_attempts_behind"):
            async with database.transaction() as transaction:
                await transaction.rows("upkeep_attempts_settings", keep=keep, lock_timeout=within)
                await transaction.rows(part)
    except LockNotAvailableError:
        return False
    return True
