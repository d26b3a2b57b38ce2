"""What jobs and artifacts have alike: numbered versions, of which one is the latest.

Whoever changes a series holds the lock of its row (`begin`, `hold`), so that numbers have no gaps and no
doubles and a word points where its last writer said. Names are checked before they come here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Result, Row, Select, Table, and_, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline import names
from towline.errors import NotFound
from towline_registry.core import versions
from towline_registry.core.retention import Retention
from towline_registry.storage import tables

__all__ = [
    "ARTIFACTS",
    "JOBS",
    "Key",
    "Series",
    "SeriesRow",
    "begin",
    "deleted",
    "described",
    "find",
    "get",
    "hold",
    "missing",
    "newest",
    "page",
    "read",
    "set_latest",
    "the_version",
    "words",
]


class Series(NamedTuple):
    """The tables of jobs, or of artifacts.

    Attributes:
        word: "job" or "artifact": what one is called, and its column in `versions` and `aliases`.
        parents: One row per series.
        versions: One row per version.
        aliases: One row per alias other than "latest".
        remedy: What to do where one is not there.
    """

    word: str
    parents: Table
    versions: Table
    aliases: Table
    remedy: str


class Key(NamedTuple):
    """One version: the name of its series and its number."""

    series: str
    number: int

    @property
    def name(self) -> str:
        """The whole name, such as "jobs/a/versions/v0"."""
        return f"{self.series}/versions/{versions.label(self.number)}"


@dataclass(frozen=True)
class SeriesRow:
    """A job or an artifact as it is kept; it has at least one version."""

    name: str
    version_count: int
    create_time: datetime
    latest: Key
    retention: Retention


JOBS: Final = Series("job", tables.jobs, tables.job_versions, tables.job_aliases, "record or create it first")
ARTIFACTS: Final = Series(
    "artifact", tables.artifacts, tables.artifact_versions, tables.artifact_aliases, "put it first"
)


async def begin(connection: AsyncConnection, series: Series, name: str) -> Key:
    """Make a series where there is none, lock it, and give the key of its next version."""
    await connection.execute(insert(series.parents).values(name=name).on_conflict_do_nothing())
    return Key(name, (await _locked(connection, series, name)).one().version_count)


async def hold(connection: AsyncConnection, series: Series, name: str) -> None:
    """Lock a series.

    Raises:
        NotFound: There is none of this name, or it has no version; see `find`.
    """
    row = (await _locked(connection, series, name)).one_or_none()
    if row is None or row.latest is None:
        raise missing(series, name)


async def find(
    connection: AsyncConnection, series: Series, whole: names.JobVersionName | names.ArtifactVersionName
) -> Key:
    """Find the version that a version or alias names.

    Raises:
        NotFound: There is no such series (JOB_NOT_FOUND or ARTIFACT_NOT_FOUND) or version
            (JOB_VERSION_NOT_FOUND or ARTIFACT_VERSION_NOT_FOUND).
    """
    name, word = names.split_version(whole)
    parents, columns, aliases = series.parents.c, series.versions.c, series.aliases.c
    latest: int | None = await connection.scalar(select(parents.latest).where(parents.name == name))
    if latest is None:
        raise missing(series, name)
    number = latest if word == versions.LATEST else versions.number_of(word)
    if number is None:
        found = select(aliases.number).where(aliases[series.word] == name, aliases.alias == word)
    else:
        found = select(columns.number).where(
            the_version(series, Key(name, number)), columns.delete_time.is_(None)
        )
    number = await connection.scalar(found)
    if number is None:
        raise NotFound(
            f"{name} has no version or alias {word!r}; its latest version is {versions.label(latest)}",
            reason=f"{series.word.upper()}_VERSION_NOT_FOUND",
            metadata={"name": whole},
        )
    return Key(name, number)


async def newest(
    connection: AsyncConnection, series: Series, name: str, *alike: ColumnElement[bool]
) -> Key | None:
    """Find the newest version that has not been deleted and of whose row the conditions hold."""
    columns = series.versions.c
    number: int | None = await connection.scalar(
        select(columns.number)
        .where(columns[series.word] == name, columns.delete_time.is_(None), *alike)
        .order_by(columns.number.desc())
        .limit(1)
    )
    return None if number is None else Key(name, number)


async def set_latest(
    connection: AsyncConnection, series: Series, key: Key, *, version_count: int | None = None
) -> None:
    """Point "latest" at a version, and set how many were made where that is told; the series is locked."""
    values = {"latest": key.number} | ({} if version_count is None else {"version_count": version_count})
    parents = series.parents
    await connection.execute(parents.update().where(parents.c.name == key.series).values(values))


async def get(connection: AsyncConnection, series: Series, name: str) -> SeriesRow:
    """Read a series; see `hold` for what it raises."""
    parents = series.parents
    rows = await connection.execute(
        select(parents).where(parents.c.name == name, parents.c.latest.is_not(None))
    )
    row = rows.one_or_none()
    if row is None:
        raise missing(series, name)
    return read(row)


async def page(
    connection: AsyncConnection, series: Series, query: Select[Any], *, after: str, limit: int
) -> Sequence[Row[Any]]:
    """Give up to `limit` rows of a query over series that have versions, by name, those after `after`."""
    parents = series.parents.c
    chosen = query.where(parents.name > after, parents.latest.is_not(None))
    rows: Result[Any] = await connection.execute(chosen.order_by(parents.name).limit(limit))
    return rows.all()


def read(row: Row[Any]) -> SeriesRow:
    """Read a row of `parents` that has versions."""
    return SeriesRow(
        name=row.name,
        version_count=row.version_count,
        create_time=row.create_time,
        latest=Key(row.name, row.latest),
        retention=Retention(row.keep_newest, row.keep_for),
    )


def the_version(series: Series, key: Key) -> ColumnElement[bool]:
    """Make the condition that a row of `versions` is one version."""
    return and_(series.versions.c[series.word] == key.series, series.versions.c.number == key.number)


def described(series: Series, columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """Select columns of known versions, and the words that point at each; see `words`."""
    known, aliases, parents = series.versions.c, series.aliases.c, series.parents.c
    pointing = (
        select(func.array_agg(aliases.alias))
        .where(aliases[series.word] == known[series.word], aliases.number == known.number)
        .scalar_subquery()
    )
    is_latest = (
        select(parents.latest == known.number).where(parents.name == known[series.word]).scalar_subquery()
    )
    return select(
        *columns, func.coalesce(pointing, []).label("pointing"), is_latest.label("is_latest")
    ).where(known.delete_time.is_(None))


def words(row: Row[Any]) -> tuple[str, ...]:
    """Give the aliases in a row of `described`, sorted."""
    found: Sequence[str] = row.pointing
    return tuple(sorted([*found, versions.LATEST] if row.is_latest else found))


def deleted(series: Series, key: Key) -> NotFound:
    """Say that a version was found and is no more."""
    return NotFound(
        f"{key.name} was deleted just now; its series has others",
        reason=f"{series.word.upper()}_VERSION_NOT_FOUND",
        metadata={"name": key.name},
    )


async def _locked(connection: AsyncConnection, series: Series, name: str) -> Result[Any]:
    parents = series.parents.c
    query = select(parents.version_count, parents.latest).where(parents.name == name)
    rows: Result[Any] = await connection.execute(query.with_for_update(key_share=True))
    return rows


def missing(series: Series, name: str) -> NotFound:
    """Say that there is no series of this name."""
    return NotFound(
        f"there is no {name}; {series.remedy}",
        reason=f"{series.word.upper()}_NOT_FOUND",
        metadata={"name": name},
    )
