"""Handing out waiting runs, in one transaction of three statements: take, (decide), claim."""

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.v1 import runs_pb2
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import Claimed
from towline_queue.core.matching import Assignment, Lane, WaitingRun
from towline_queue.core.transitions import CLAIM
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import agents, leases

__all__ = ["claim", "held_gpus", "take"]

_PRIORITIES = [number for number in runs_pb2.Priority.values() if number]


async def take(connection: AsyncConnection, lanes: Sequence[Lane]) -> list[WaitingRun]:
    """Lock the first runs of each lane until the transaction ends; where none may be taken, only look."""
    taking = [lane for lane in lanes if lane.most]
    looking = [lane for lane in lanes if not lane.most]
    rows = list(
        await connection.execute(
            statement("claim_take"),
            {
                "queues": [lane.queue for lane in taking],
                "shapes": [lane.shape for lane in taking],
                "mosts": [lane.most for lane in taking],
            },
        )
    )
    if looking:
        rows += await connection.execute(
            statement("claim_peek"),
            {
                "queues": [lane.queue for lane in looking],
                "shapes": [lane.shape for lane in looking],
                "priorities": _PRIORITIES,
            },
        )
    return [
        WaitingRun(row.run, row.queue, row.shape, row.priority, row.seq, waited=row.waited) for row in rows
    ]


async def held_gpus(connection: AsyncConnection, agent_names: Collection[str]) -> dict[str, set[str]]:
    """Lock agents and return the GPUs that leases of each hold; an agent that is locked already is left out.

    The lock makes claims for one agent take turns, so that no two that overlap (one whose commit nobody
    waits for any more, and the next) give away one GPU: each sees the leases that the other made.
    """
    locked = await connection.execute(
        select(agents.c.name)
        .where(agents.c.name.in_(agent_names))
        .order_by(agents.c.name)
        .with_for_update(key_share=True, skip_locked=True)
    )
    held: dict[str, set[str]] = {name: set() for name in locked.scalars()}
    # A statement of its own: it must see what was committed while the lock was another's.
    rows = await connection.execute(select(leases.c.agent, leases.c.gpu_ids).where(leases.c.agent.in_(held)))
    for row in rows:
        held[row.agent].update(row.gpu_ids)
    return held


async def claim(
    connection: AsyncConnection, assignments: Sequence[Assignment], holders: Sequence[str]
) -> list[Claimed]:
    """Give locked runs to sessions; what a session may not have any more is left out.

    Args:
        connection: The transaction that took the runs.
        assignments: What goes where.
        holders: The agents of these sessions.
    """
    rows = await connection.execute(
        statement("claim"),
        {
            "runs": [assignment.run for assignment in assignments],
            "sessions": [assignment.session for assignment in assignments],
            "gpu_ids": [",".join(assignment.gpu_ids) for assignment in assignments],
            "holders": list({assignment.session for assignment in assignments}),
            "agents": list(holders),
            "sources": sorted(CLAIM.sources),
            "target": CLAIM.target,
            "released": runs_pb2.ATTEMPT_OUTCOME_RELEASED,
        },
    )
    return [
        Claimed(
            key=AttemptKey(row.run, row.epoch),
            session=row.session,
            number=row.number,
            spec=row.spec,
            gpu_ids=tuple(row.gpu_ids),
            ttl=row.lost_after,
        )
        for row in rows
    ]
