"""Whose turn it is to do what one replica does for all of them, and who they are."""

from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline_registry.storage.tables import identity, upkeep

__all__ = ["begin", "identity_of"]


async def begin(connection: AsyncConnection, task: str, every: timedelta) -> bool:
    """Begin a task unless any replica has begun it within `every`; say whether it is the caller's now.

    Nothing may depend on there being only one at work: the one before may still be.
    """
    row = insert(upkeep).values(task=task, start_time=func.now())
    begun = await connection.scalar(
        row.on_conflict_do_update(
            index_elements=[upkeep.c.task],
            set_={"start_time": func.now()},
            where=upkeep.c.start_time < func.now() - every,
        ).returning(upkeep.c.task)
    )
    return begun is not None


async def identity_of(connection: AsyncConnection) -> UUID:
    """Give what tells this registry, all its replicas together, from others; made when first asked for."""
    await connection.execute(insert(identity).values(id=uuid4()).on_conflict_do_nothing())
    found: UUID = (await connection.execute(select(identity.c.id))).scalar_one()
    return found
