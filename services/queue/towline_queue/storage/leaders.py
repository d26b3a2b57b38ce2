"""Who leads work that one replica does for all of them. Nothing depends on there being only one."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from towline_queue.storage.statements import statement

__all__ = ["lead"]


async def lead(connection: AsyncConnection, name: str, holder: UUID, length: timedelta) -> bool:
    """Take or keep the lead of some work for a while; return whether `holder` leads now.

    A leader that does not call for a whole length is followed by whoever calls first.
    """
    rows = await connection.execute(statement("lead"), {"name": name, "holder": holder, "length": length})
    return rows.one_or_none() is not None
