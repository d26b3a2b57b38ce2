"""How versions go: unknown at once, their rows and what they refer to some days later.

Whoever changes a version here has locked its series.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from towline_registry.core.retention import Retention
from towline_registry.storage import references
from towline_registry.storage.series import Key, Series, the_version

__all__ = [
    "buried",
    "bury",
    "expired",
    "not_looked_at",
    "purge",
    "restore",
    "set_kept",
    "set_retention",
]

# Versions that are in use now will be tomorrow, mostly; each costs a question to the queue service.
_LOOK_AGAIN_AFTER: Final = timedelta(days=1)


async def bury(connection: AsyncConnection, series: Series, key: Key) -> bool:
    """Make a version unknown, and "latest" point at the newest that is left; say whether it was known."""
    known = series.versions.c.delete_time.is_(None)
    gone = await connection.execute(
        series.versions.update().where(the_version(series, key), known).values(delete_time=func.now())
    )
    if gone.rowcount:
        await _correct_latest(connection, series, key.series)
    return gone.rowcount > 0


def buried(series: Series, before: datetime) -> Select[Any]:
    """Select the series and number of versions that became unknown before a moment, the first one first."""
    columns = series.versions.c
    return (
        select(columns[series.word].label("series"), columns.number)
        .where(columns.delete_time < before)
        .order_by(columns.delete_time)
    )


async def restore(connection: AsyncConnection, series: Series, key: Key) -> None:
    """Make a version known again, if its row is still there."""
    await connection.execute(
        series.versions.update().where(the_version(series, key)).values(delete_time=None)
    )
    await _correct_latest(connection, series, key.series)


async def purge(connection: AsyncConnection, series: Series, key: Key) -> bool:
    """Remove the row of a version that is unknown; say whether there was one."""
    unknown = series.versions.c.delete_time.is_not(None)
    gone = await connection.execute(series.versions.delete().where(the_version(series, key), unknown))
    if gone.rowcount:
        await references.drop(connection, [key.name])
    return gone.rowcount > 0


async def set_retention(connection: AsyncConnection, series: Series, name: str, retention: Retention) -> None:
    """Say which versions of a series are kept."""
    parents = series.parents
    await connection.execute(
        parents.update()
        .where(parents.c.name == name)
        .values(keep_newest=retention.keep_newest, keep_for=retention.keep_for)
    )


def expired(series: Series, now: datetime) -> Select[Any]:
    """Select the series and number of versions that no rule of their series keeps and no word points at."""
    parents, columns, aliases = series.parents.c, series.versions.c, series.aliases.c
    name = columns[series.word]
    ranks = (
        select(
            name.label("series"),
            columns.number,
            func.row_number().over(partition_by=name, order_by=columns.number.desc()).label("rank"),
        )
        .join_from(series.versions, series.parents, parents.name == name)
        .where(_has_rule(series), columns.delete_time.is_(None))
        .subquery()
    )
    pointing = select(aliases.number).where(aliases[series.word] == name, aliases.number == columns.number)
    return (
        select(name.label("series"), columns.number)
        .join_from(series.versions, series.parents, parents.name == name)
        .join(ranks, and_(ranks.c.series == name, ranks.c.number == columns.number))
        .where(
            _has_rule(series),
            columns.delete_time.is_(None),
            or_(parents.keep_newest.is_(None), ranks.c.rank > parents.keep_newest),
            or_(parents.keep_for.is_(None), columns.create_time + parents.keep_for <= now),
            parents.latest != columns.number,
            ~pointing.exists(),
        )
    )


async def not_looked_at(
    connection: AsyncConnection, series: Series, expired: Select[Any], now: datetime, limit: int
) -> list[Key]:
    """Give up to `limit` of the expired versions: those first that were not found in use, or longest ago."""
    looked = series.versions.c.kept_time
    rows = await connection.execute(
        expired.where(or_(looked.is_(None), looked < now - _LOOK_AGAIN_AFTER))
        .order_by(looked.asc().nulls_first())
        .limit(limit)
    )
    return [Key(*row) for row in rows]


async def set_kept(connection: AsyncConnection, series: Series, key: Key, now: datetime) -> None:
    """Note that retention found a version in use, so that it looks at others first."""
    await connection.execute(series.versions.update().where(the_version(series, key)).values(kept_time=now))


def _has_rule(series: Series) -> ColumnElement[bool]:
    return or_(series.parents.c.keep_newest.is_not(None), series.parents.c.keep_for.is_not(None))


async def _correct_latest(connection: AsyncConnection, series: Series, name: str) -> None:
    """Point "latest" at the newest version where it points at none."""
    parents, columns = series.parents, series.versions.c
    known = select(columns.number).where(columns[series.word] == name, columns.delete_time.is_(None))
    newest = known.with_only_columns(func.max(columns.number)).scalar_subquery()
    await connection.execute(
        parents.update()
        .where(
            parents.c.name == name,
            or_(parents.c.latest.is_(None), ~known.where(columns.number == parents.c.latest).exists()),
        )
        .values(latest=newest)
    )
