"""Jobs, their versions and aliases. Names are checked before they come here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline import names
from towline.errors import NotFound
from towline.v1.jobs_pb2 import JobSpec
from towline_registry.core import versions
from towline_registry.core.digests import Digest
from towline_registry.storage.tables import job_aliases, job_versions, jobs

__all__ = [
    "JobRow",
    "NewVersion",
    "VersionRow",
    "add_version",
    "get",
    "list_jobs",
    "list_versions",
    "set_aliases",
]

# A page ends early rather than pass this; a message may have 16 MiB and a version about 3.
_MAX_PAGE_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True)
class JobRow:
    """A job as it is kept."""

    name: str
    version_count: int
    create_time: datetime


@dataclass(frozen=True)
class VersionRow:
    """A version as it is kept, with the aliases it has now, sorted."""

    job: str
    number: int
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


async def add_version(connection: AsyncConnection, job: names.JobName, new: NewVersion) -> tuple[int, bool]:
    """Add a version unless the newest one has its digest; give the number, and whether it was made."""
    await connection.execute(insert(jobs).values(name=job).on_conflict_do_nothing())
    # From here to the commit nobody else adds to this job, so numbers have no gaps and no doubles.
    locked = await connection.execute(
        select(jobs.c.version_count).where(jobs.c.name == job).with_for_update(key_share=True)
    )
    count: int = locked.scalar_one()
    newest = await connection.scalar(select(job_versions.c.digest).where(_version(job, count - 1)))
    if newest == new.digest:
        return count - 1, False
    await connection.execute(
        insert(job_versions).values(
            job=job, number=count, digest=new.digest, spec=new.spec.SerializeToString(), author=new.author
        )
    )
    await connection.execute(jobs.update().where(jobs.c.name == job).values(version_count=count + 1))
    return count, True


async def set_aliases(
    connection: AsyncConnection, job: names.JobName, aliases: Iterable[str], number: int
) -> None:
    """Point aliases, sorted, at a version, moving those that exist."""
    for alias in aliases:
        statement = insert(job_aliases).values(job=job, alias=alias, number=number)
        await connection.execute(
            statement.on_conflict_do_update(index_elements=["job", "alias"], set_={"number": number})
        )


async def get(connection: AsyncConnection, name: names.JobVersionName) -> VersionRow:
    """Read one version, by number, alias or "latest".

    Raises:
        NotFound: There is no such job (JOB_NOT_FOUND) or version (JOB_VERSION_NOT_FOUND).
    """
    job, word = names.split_version(name)
    count = await _count(connection, job)
    number = count - 1 if word == versions.LATEST else versions.number_of(word)
    if number is None:
        number = await connection.scalar(
            select(job_aliases.c.number).where(job_aliases.c.job == job, job_aliases.c.alias == word)
        )
    row = None
    if number is not None:
        row = (await connection.execute(_versions().where(_version(job, number)))).one_or_none()
    if row is None:
        raise NotFound(
            f"{job} has no version or alias {word!r}; its versions are v0 to {versions.label(count - 1)}",
            reason="JOB_VERSION_NOT_FOUND",
            metadata={"name": name},
        )
    return _row(row)


async def list_jobs(connection: AsyncConnection, *, after: str, limit: int) -> list[JobRow]:
    """Give up to `limit` jobs whose names come after `after`, by name."""
    rows = await connection.execute(
        select(jobs).where(jobs.c.name > after).order_by(jobs.c.name).limit(limit)
    )
    return [JobRow(row.name, row.version_count, row.create_time) for row in rows]


async def list_versions(
    connection: AsyncConnection, job: names.JobName, *, before: int | None, limit: int
) -> tuple[list[VersionRow], bool]:
    """Give versions below `before`, newest first, and whether there are more.

    At most `limit`, and fewer where their specs would make a message too large, but always one.

    Raises:
        NotFound: There is no such job; reason JOB_NOT_FOUND.
    """
    count = await _count(connection, job)
    query = (
        _versions()
        .where(
            job_versions.c.job == job,
            job_versions.c.number < (count if before is None else min(before, count)),
        )
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


async def _count(connection: AsyncConnection, job: str) -> int:
    count: int | None = await connection.scalar(select(jobs.c.version_count).where(jobs.c.name == job))
    if count is None:
        raise NotFound(
            f"there is no {job}; record or create it first", reason="JOB_NOT_FOUND", metadata={"name": job}
        )
    return count


def _version(job: str, number: int) -> ColumnElement[bool]:
    return and_(job_versions.c.job == job, job_versions.c.number == number)


def _versions() -> Select[Any]:
    """Select versions with their aliases and whether they are the newest."""
    aliases = (
        select(func.array_agg(job_aliases.c.alias))
        .where(job_aliases.c.job == job_versions.c.job, job_aliases.c.number == job_versions.c.number)
        .scalar_subquery()
    )
    newest = (
        select(jobs.c.version_count - 1 == job_versions.c.number)
        .where(jobs.c.name == job_versions.c.job)
        .scalar_subquery()
    )
    return select(job_versions, func.coalesce(aliases, []).label("aliases"), newest.label("newest"))


def _row(row: Row[Any]) -> VersionRow:
    aliases: Sequence[str] = row.aliases
    return VersionRow(
        job=row.job,
        number=row.number,
        digest=Digest(row.digest),
        spec=JobSpec.FromString(row.spec),
        author=row.author,
        create_time=row.create_time,
        aliases=tuple(sorted([*aliases, versions.LATEST] if row.newest else aliases)),
    )
