"""Words that point at versions, besides "latest". Whoever changes them has locked the series."""

from collections.abc import Iterable

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import FailedPrecondition, NotFound
from towline_registry.core import versions
from towline_registry.storage.series import Key, Series

__all__ = ["drop", "move", "point", "pointing_at"]


async def point(connection: AsyncConnection, series: Series, key: Key, aliases: Iterable[str]) -> None:
    """Point aliases at a version, moving those that exist."""
    for alias in aliases:
        values = {series.word: key.series, "alias": alias, "number": key.number}
        await connection.execute(
            insert(series.aliases)
            .values(values)
            .on_conflict_do_update(index_elements=[series.word, "alias"], set_={"number": key.number})
        )


async def move(
    connection: AsyncConnection, series: Series, key: Key, alias: str, expected: versions.Expected | None
) -> None:
    """Point an alias at a version if it points where it is expected to; None: wherever it points.

    Raises:
        FailedPrecondition: It points elsewhere; reason ALIAS_MOVED.
    """
    if expected is not None:
        points_at: int | None = await connection.scalar(
            select(series.aliases.c.number).where(_alias(series, key.series, alias))
        )
        if points_at != expected.number:
            there = versions.NONE if points_at is None else Key(key.series, points_at).name
            raise FailedPrecondition(
                f"the alias {alias!r} of {key.series} is not as expected: "
                + ("there is none" if points_at is None else f"it points at {versions.label(points_at)}")
                + "; look at it again before you move it",
                reason="ALIAS_MOVED",
                metadata={"alias": alias, "version": there},
            )
    await point(connection, series, key, [alias])


async def drop(connection: AsyncConnection, series: Series, name: str, alias: str) -> None:
    """Take an alias away.

    Raises:
        NotFound: There is none; reason JOB_VERSION_NOT_FOUND or ARTIFACT_VERSION_NOT_FOUND.
    """
    gone = await connection.execute(series.aliases.delete().where(_alias(series, name, alias)))
    if not gone.rowcount:
        raise NotFound(
            f"{name} has no alias {alias!r}; look for it in the list of its versions",
            reason=f"{series.word.upper()}_VERSION_NOT_FOUND",
            metadata={"name": f"{name}/versions/{alias}"},
        )


async def pointing_at(connection: AsyncConnection, series: Series, key: Key) -> list[str]:
    """Give the aliases of a version, sorted."""
    columns = series.aliases.c
    found = await connection.scalars(
        select(columns.alias)
        .where(columns[series.word] == key.series, columns.number == key.number)
        .order_by(columns.alias)
    )
    return list(found)


def _alias(series: Series, name: str, alias: str) -> ColumnElement[bool]:
    return and_(series.aliases.c[series.word] == name, series.aliases.c.alias == alias)
