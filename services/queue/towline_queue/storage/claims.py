"""Handing out waiting runs, in one transaction of three statements: take, (decide), claim."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.v1 import runs_pb2
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.matching import Assignment, Lane, WaitingRun
from towline_queue.core.transitions import CLAIM
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import leases

__all__ = ["Claimed", "claim", "held_gpus", "take"]

_PRIORITIES = [number for number in runs_pb2.Priority.values() if number]


@dataclass(frozen=True)
class Claimed:
    """One new lease."""

    key: AttemptKey
    session: UUID
    number: int
    """1 for the first attempt of the run."""
    spec: bytes
    """towline.v1.LaunchSpec."""


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
    """Return the GPUs that leases of each agent hold, whatever the agent says."""
    held: dict[str, set[str]] = defaultdict(set)
    rows = await connection.execute(
        select(leases.c.agent, leases.c.gpu_ids).where(leases.c.agent.in_(agent_names))
    )
    for row in rows:
        held[row.agent].update(row.gpu_ids)
    return held


async def claim(
    connection: AsyncConnection, assignments: Sequence[Assignment], agents: Sequence[str]
) -> list[Claimed]:
    """Give locked runs to sessions; what a session may not have any more is left out.

    Args:
        connection: The transaction that took the runs.
        assignments: What goes where.
        agents: The agents of these sessions.
    """
    rows = await connection.execute(
        statement("claim"),
        {
            "runs": [assignment.run for assignment in assignments],
            "sessions": [assignment.session for assignment in assignments],
            "gpu_ids": [",".join(assignment.gpu_ids) for assignment in assignments],
            "holders": list({assignment.session for assignment in assignments}),
            "agents": list(agents),
            "sources": sorted(CLAIM.sources),
            "target": CLAIM.target,
            "released": runs_pb2.ATTEMPT_OUTCOME_RELEASED,
        },
    )
    return [Claimed(AttemptKey(row.run, row.epoch), row.session, row.number, row.spec) for row in rows]
