"""Jobs, their versions and what these need. Names are checked before they come here."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline import names
from towline.v1.jobs_pb2 import JobSpec
from towline_registry.core import versions
from towline_registry.core.digests import Digest
from towline_registry.core.jobspecs import blobs_of
from towline_registry.storage import aliases, inputs, references, removal, series
from towline_registry.storage.series import JOBS, Key, SeriesRow
from towline_registry.storage.tables import job_versions, jobs

__all__ = [
    "NewVersion",
    "VersionRow",
    "add_version",
    "delete",
    "get",
    "list_jobs",
    "list_versions",
    "restore",
]

# A page ends early rather than pass this; a message may have 16 MiB and a version about 3.
_MAX_PAGE_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True)
class VersionRow:
    """A version as it is kept, with the aliases it has now, sorted."""

    key: Key
    digest: Digest
    spec: JobSpec
    author: str
    create_time: datetime
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class NewVersion:
    """A version to be made: its completed spec, the digest of that, and who makes it."""

    spec: JobSpec
    digest: Digest
    author: str


async def add_version(
    connection: AsyncConnection, job: names.JobName, new: NewVersion, words: Collection[str]
) -> tuple[VersionRow, bool]:
    """Add a version unless one has its digest, and point "latest" and other words at it.

    The rows of its blobs are locked (`blobs.require`).

    Returns:
        The version, and whether it was made.

    Raises:
        NotFound: An input names what is not there; reason ARTIFACT_NOT_FOUND or ARTIFACT_VERSION_NOT_FOUND.
    """
    key = await series.begin(connection, JOBS, job)
    same = await series.newest(connection, JOBS, job, job_versions.c.digest == new.digest)
    if same is not None:
        key = same
        await series.set_latest(connection, JOBS, key)
    else:
        await connection.execute(
            insert(job_versions).values(
                job=job,
                number=key.number,
                digest=new.digest,
                spec=new.spec.SerializeToString(),
                author=new.author,
            )
        )
        await series.set_latest(connection, JOBS, key, version_count=key.number + 1)
        await references.add(connection, key.name, blobs_of(new.spec))
        await inputs.add(connection, key, new.spec.inputs)
    await aliases.point(connection, JOBS, key, words)
    row = await connection.execute(_versions().where(series.the_version(JOBS, key)))
    return _row(row.one()), same is None


async def get(connection: AsyncConnection, name: names.JobVersionName) -> VersionRow:
    """Read one version, by number, alias or "latest"; see `series.find` for what it raises."""
    key = await series.find(connection, JOBS, name)
    row = (await connection.execute(_versions().where(series.the_version(JOBS, key)))).one_or_none()
    if row is None:
        raise series.deleted(JOBS, key)
    return _row(row)


async def list_jobs(connection: AsyncConnection, *, after: str, limit: int) -> list[SeriesRow]:
    """Give up to `limit` jobs whose names come after `after`, by name."""
    rows = await series.page(connection, JOBS, select(jobs), after=after, limit=limit)
    return [series.read(row) for row in rows]


async def list_versions(
    connection: AsyncConnection, job: names.JobName, *, before: int | None, limit: int
) -> tuple[list[VersionRow], bool]:
    """Give versions below `before`, newest first, and whether there are more.

    At most `limit`, and fewer where their specs would make a message too large, but always one.

    Raises:
        NotFound: There is no such job; reason JOB_NOT_FOUND.
    """
    await series.get(connection, JOBS, job)
    query = (
        _versions()
        .where(job_versions.c.job == job, *([] if before is None else [job_versions.c.number < before]))
        .order_by(job_versions.c.number.desc())
        .limit(limit + 1)
    )
    page: list[VersionRow] = []
    size = 0
    # Streamed a few at a time: a thousand specs of the largest kind would be gigabytes.
    async with connection.stream(query.execution_options(yield_per=8)) as rows:
        async for row in rows:
            size += len(row.spec)
            if len(page) == limit or (page and size > _MAX_PAGE_BYTES):
                return page, True
            page.append(_row(row))
    return page, False


async def delete(connection: AsyncConnection, key: Key) -> None:
    """Make a version unknown to which no run refers.

    Raises:
        NotFound: It is not there; see `series.find`.
        FailedPrecondition: An alias other than "latest" points at it; reason IN_USE.
    """
    await series.hold(connection, JOBS, key.series)
    await series.find(connection, JOBS, names.JobVersionName(key.name))
    if words := await aliases.pointing_at(connection, JOBS, key):
        raise versions.pointed_at(key.name, words)
    await removal.bury(connection, JOBS, key)


async def restore(connection: AsyncConnection, key: Key) -> None:
    """Make a version known again to which a run refers after all, and those of artifacts that it reads."""
    await series.begin(connection, JOBS, key.series)
    await removal.restore(connection, JOBS, key)
    await inputs.restore(connection, key)


def _versions() -> Select[Any]:
    return series.described(JOBS, list(job_versions.c))


def _row(row: Row[Any]) -> VersionRow:
    return VersionRow(
        key=Key(row.job, row.number),
        digest=Digest(row.digest),
        spec=JobSpec.FromString(row.spec),
        author=row.author,
        create_time=row.create_time,
        aliases=series.words(row),
    )
