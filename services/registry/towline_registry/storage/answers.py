"""Answers to mutations, kept so that a repeated request gets the first one."""

from datetime import datetime

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from towline_registry.storage.tables import requests

__all__ = ["forget"]


async def forget(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Drop up to `limit` answers given before a moment, which nobody asks for any more; say how many."""
    columns = requests.c
    old = select(columns.method, columns.request_id).where(columns.create_time < before).limit(limit)
    gone = await connection.execute(
        requests.delete().where(tuple_(columns.method, columns.request_id).in_(old))
    )
    return gone.rowcount
