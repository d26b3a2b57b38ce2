"""What decides when waiting runs start, read from PostgreSQL."""

from collections.abc import Collection
from typing import Final

from sqlalchemy import ARRAY, Text, bindparam
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.v1 import leases_pb2, runs_pb2
from towline_queue.core.explain import MOST_COUNTED, AgentFacts, QueueFacts
from towline_queue.storage.statements import statement

__all__ = ["count_ahead", "queue_facts"]

_AGENTS: Final = statement("queue_agents").bindparams(bindparam("queues", type_=ARRAY(Text)))
_PRIORITIES: Final = [number for number in runs_pb2.Priority.values() if number]


async def queue_facts(connection: AsyncConnection, names: Collection[str]) -> dict[str, QueueFacts]:
    """Return the facts about each of the queues; those that are gone have no agents and are not paused."""
    if not names:
        return {}
    paused: set[str] = set()
    agents: dict[str, list[AgentFacts]] = {name: [] for name in names}
    for row in (await connection.execute(_AGENTS, {"queues": list(names)})).all():
        if row.paused:
            paused.add(row.queue)
        if row.capacity is None:  # nobody serves it
            continue
        agents[row.queue].append(
            AgentFacts(
                connected=row.connected,
                draining=row.draining,
                withheld=row.withheld,
                slots=leases_pb2.Capacity.FromString(row.capacity).slots,
                gpus=row.gpus,
                busy_slots=row.busy_slots,
                busy_gpus=row.busy_gpus,
                alike=row.alike,
            )
        )
    return {name: QueueFacts(paused=name in paused, agents=agents[name]) for name in names}


async def count_ahead(connection: AsyncConnection, queue: str, *, priority: int, seq: int) -> int:
    """Count the runs of a queue that come before a place in it, up to MOST_COUNTED."""
    place = {"queue": queue, "priority": priority, "seq": seq}
    bounds = {"priorities": [number for number in _PRIORITIES if number <= priority], "most": MOST_COUNTED}
    counted: int = (await connection.execute(statement("queue_ahead"), place | bounds)).scalar_one()
    return counted
