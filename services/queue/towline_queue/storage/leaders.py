"""Who leads work that one replica does for all of them. Nothing depends on there being only one."""

from datetime import timedelta
from uuid import UUID

from towline_queue.storage.database import Database, Transaction

__all__ = ["lead"]


async def lead(database: Database | Transaction, name: str, holder: UUID, length: timedelta) -> bool:
    """Take or keep the lead of some work for a while; return whether `holder` leads now.

    A leader that does not call for a whole length is followed by whoever calls first.
    """
    return bool(await database.rows("lead", name=name, holder=holder, length=length))
