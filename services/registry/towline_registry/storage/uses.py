"""Who has read which artifact versions, and what came of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, any_, func, literal, or_, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, INTEGER, TEXT, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.names import ArtifactVersionName
from towline_registry.storage import series
from towline_registry.storage.series import ARTIFACTS, Key
from towline_registry.storage.tables import artifact_uses, artifact_versions

__all__ = ["Reader", "Use", "add", "drop", "made_by", "newest_first", "newest_settled", "read_by", "run_of"]

_Names = ARRAY(TEXT(collation="C"))
_BY_A_RUN: Final = artifact_uses.c.run != ""
_OF_ITS_VERSION: Final = and_(
    artifact_uses.c.artifact == artifact_versions.c.artifact,
    artifact_uses.c.number == artifact_versions.c.number,
)


@dataclass(frozen=True)
class Reader:
    """Who reads, or makes, artifact versions.

    Attributes:
        run: "runs/{run}"; empty: it is the recording of `job_version`.
        job_version: "jobs/{job}/versions/{version}"; empty: not told.
    """

    run: str
    job_version: str


@dataclass(frozen=True)
class Use:
    """That somebody has read an artifact version; later ones have larger ids."""

    id: int
    reader: Reader
    create_time: datetime


async def add(
    connection: AsyncConnection, runs: Sequence[str], job_version: str, keys: Collection[Key]
) -> None:
    """Note that runs, or without any the recording of a job version, read artifact versions.

    Again does no harm. From here on the versions cannot be deleted.

    Raises:
        NotFound: One of the versions is not there; see `series.find`.
    """
    wanted, columns = sorted(set(keys)), artifact_versions.c
    known = await connection.execute(
        select(columns.artifact, columns.number)
        .where(tuple_(columns.artifact, columns.number).in_(wanted), columns.delete_time.is_(None))
        .order_by(columns.artifact, columns.number)
        # Who deletes one of them waits for this; others may note uses of the same ones meanwhile.
        .with_for_update(read=True)
    )
    found = {Key(*row) for row in known}
    for key in wanted:
        if key not in found:
            await series.find(connection, ARTIFACTS, ArtifactVersionName(key.name))
            raise series.deleted(ARTIFACTS, key)
    versions = (
        func.unnest(
            literal([key.series for key in wanted], _Names),
            literal([key.number for key in wanted], ARRAY(INTEGER)),
        )
        .table_valued("artifact", "number")
        .render_derived()
    )
    readers = func.unnest(literal(sorted(set(runs)) or [""], _Names)).table_valued("run").render_derived()
    rows = (
        select(versions.c.artifact, versions.c.number, readers.c.run, literal(job_version, TEXT))
        .select_from(versions.join(readers, literal(True)))
        .order_by(versions.c.artifact, versions.c.number, readers.c.run)
    )
    names = ["artifact", "number", "run", "job_version"]
    await connection.execute(insert(artifact_uses).from_select(names, rows).on_conflict_do_nothing())


async def run_of(connection: AsyncConnection, key: Key) -> str | None:
    """Find a run that reads an artifact version, the newest of them; None: there is none."""
    run: str | None = await connection.scalar(
        select(artifact_uses.c.run).where(_of(key), _BY_A_RUN).order_by(artifact_uses.c.id.desc()).limit(1)
    )
    return run


async def newest_settled(connection: AsyncConnection, key: Key, settled: timedelta) -> Use | None:
    """Find the newest use of a version by a run that was noted before a time span; None: there is none."""
    columns = artifact_uses.c
    found = await connection.execute(
        select(artifact_uses)
        .where(_of(key), _BY_A_RUN, columns.create_time < func.now() - settled)
        .order_by(columns.id.desc())
        .limit(1)
    )
    row = found.one_or_none()
    return _use(row) if row else None


async def drop(connection: AsyncConnection, use: Use) -> None:
    """Forget a use."""
    await connection.execute(artifact_uses.delete().where(artifact_uses.c.id == use.id))


async def newest_first(connection: AsyncConnection, key: Key, *, before: int | None, limit: int) -> list[Use]:
    """Give up to `limit` uses of a version with ids below `before`, the last one first."""
    columns = artifact_uses.c
    rows = await connection.execute(
        select(artifact_uses)
        .where(_of(key), *([] if before is None else [columns.id < before]))
        .order_by(columns.id.desc())
        .limit(limit)
    )
    return [_use(row) for row in rows]


def read_by(query: Select[Any], reader: Reader) -> Select[Any]:
    """Narrow a query over `artifact_versions` to those that somebody has read."""
    columns = artifact_uses.c
    by_it = columns.run == reader.run
    if not reader.run:
        by_it = and_(by_it, columns.job_version == reader.job_version)
    return query.where(select(columns.id).where(_OF_ITS_VERSION, by_it).exists())


def made_by(query: Select[Any], makers: Collection[Reader]) -> Select[Any]:
    """Narrow a query over `artifact_versions` to those that runs or recordings made."""
    columns = artifact_versions.c
    runs = [maker.run for maker in makers if maker.run]
    recordings = [maker.job_version for maker in makers if not maker.run]
    return query.where(
        or_(
            and_(columns.producer_run != "", columns.producer_run == any_(literal(runs, _Names))),
            and_(
                columns.producer_run == "",
                columns.producer_job_version != "",
                columns.producer_job_version == any_(literal(recordings, _Names)),
            ),
        )
    )


def _use(row: Row[Any]) -> Use:
    return Use(row.id, Reader(row.run, row.job_version), row.create_time)


def _of(key: Key) -> ColumnElement[bool]:
    return and_(artifact_uses.c.artifact == key.series, artifact_uses.c.number == key.number)
