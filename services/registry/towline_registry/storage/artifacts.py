"""Artifacts, their versions and where these came from. Names are checked before they come here."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, Select, and_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline import names
from towline_registry.core import versions
from towline_registry.core.manifests import Manifest
from towline_registry.storage import aliases, inputs, references, removal, series, uses
from towline_registry.storage.series import ARTIFACTS, Key, SeriesRow
from towline_registry.storage.tables import artifact_versions, artifacts
from towline_registry.storage.uses import Reader

__all__ = [
    "ArtifactRow",
    "NewVersion",
    "VersionRow",
    "add_version",
    "came_of",
    "delete",
    "expired",
    "get",
    "get_artifact",
    "get_manifest",
    "list_artifacts",
    "list_versions",
    "made_from",
    "purgeable",
]

_SUMMARY: Final = [column for column in artifact_versions.c if column.name != "manifest"]
_BY_NAME: Final = (artifact_versions.c.artifact, artifact_versions.c.number.desc())
# In one answer.
_MOST_RELATED: Final = 1000


@dataclass(frozen=True)
class VersionRow:
    """A version as it is kept, without its manifest, with the aliases it has now, sorted."""

    key: Key
    type: str
    digest: str
    size_bytes: int
    file_count: int
    create_time: datetime
    producer: Reader
    metadata_json: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class NewVersion:
    """A version to be made."""

    type: str
    manifest: Manifest
    producer: Reader
    metadata_json: str


@dataclass(frozen=True)
class ArtifactRow:
    """An artifact as it is kept, and the type of its latest version."""

    series: SeriesRow
    type: str


async def add_version(
    connection: AsyncConnection, artifact: names.ArtifactName, new: NewVersion, words: Collection[str]
) -> tuple[VersionRow, bool]:
    """Add a version unless one has its type and digest, and point "latest" and other words at it.

    The rows of its blobs are locked (`blobs.require`).

    Returns:
        The version, and whether it was made.
    """
    key = await series.begin(connection, ARTIFACTS, artifact)
    same = await series.newest(
        connection,
        ARTIFACTS,
        artifact,
        artifact_versions.c.digest == new.manifest.digest,
        artifact_versions.c.type == new.type,
    )
    if same is not None:
        key = same
        await series.set_latest(connection, ARTIFACTS, key)
    else:
        await connection.execute(
            insert(artifact_versions).values(
                artifact=artifact,
                number=key.number,
                type=new.type,
                digest=new.manifest.digest,
                size_bytes=new.manifest.size_bytes,
                file_count=new.manifest.file_count,
                manifest=new.manifest.serialized,
                producer_run=new.producer.run,
                producer_job_version=new.producer.job_version,
                metadata_json=new.metadata_json,
            )
        )
        await series.set_latest(connection, ARTIFACTS, key, version_count=key.number + 1)
        await references.add(connection, key.name, new.manifest.blobs)
    await aliases.point(connection, ARTIFACTS, key, words)
    row = await connection.execute(_described().where(series.the_version(ARTIFACTS, key)))
    return _row(row.one()), same is None


async def get(connection: AsyncConnection, name: names.ArtifactVersionName) -> VersionRow:
    """Read one version, by number, alias or "latest"; see `series.find` for what it raises."""
    key = await series.find(connection, ARTIFACTS, name)
    row = (await connection.execute(_described().where(series.the_version(ARTIFACTS, key)))).one_or_none()
    if row is None:
        raise series.deleted(ARTIFACTS, key)
    return _row(row)


async def get_manifest(connection: AsyncConnection, key: Key) -> bytes:
    """Read the manifest of a version that was there just now: Manifest.serialized.

    Raises:
        NotFound: Its row is gone; reason ARTIFACT_VERSION_NOT_FOUND.
    """
    manifest: bytes | None = await connection.scalar(
        select(artifact_versions.c.manifest).where(series.the_version(ARTIFACTS, key))
    )
    if manifest is None:
        raise series.deleted(ARTIFACTS, key)
    return manifest


async def get_artifact(connection: AsyncConnection, name: names.ArtifactName) -> ArtifactRow:
    """Read one artifact; see `series.hold` for what it raises."""
    row = (
        await connection.execute(
            _artifacts().where(artifacts.c.name == name, artifacts.c.latest.is_not(None))
        )
    ).one_or_none()
    if row is None:
        raise series.missing(ARTIFACTS, name)
    return _artifact(row)


async def list_artifacts(
    connection: AsyncConnection, *, type: str, after: str, limit: int
) -> list[ArtifactRow]:
    """Give up to `limit` artifacts whose names come after `after`, by name; with `type`, only those of it."""
    query = _artifacts().where(artifact_versions.c.type == type) if type else _artifacts()
    rows = await series.page(connection, ARTIFACTS, query, after=after, limit=limit)
    return [_artifact(row) for row in rows]


async def list_versions(
    connection: AsyncConnection, artifact: names.ArtifactName, *, before: int | None, limit: int
) -> list[VersionRow]:
    """Give up to `limit` versions below `before`, newest first.

    Raises:
        NotFound: There is no such artifact; reason ARTIFACT_NOT_FOUND.
    """
    await series.get(connection, ARTIFACTS, artifact)
    columns = artifact_versions.c
    rows = await connection.execute(
        _described()
        .where(columns.artifact == artifact, *([] if before is None else [columns.number < before]))
        .order_by(columns.number.desc())
        .limit(limit)
    )
    return [_row(row) for row in rows]


async def made_from(connection: AsyncConnection, producer: Reader) -> list[VersionRow]:
    """Give the versions that the producer of another one has read."""
    if not (producer.run or producer.job_version):
        return []
    rows = await connection.execute(
        uses.read_by(_described(), producer).order_by(*_BY_NAME).limit(_MOST_RELATED)
    )
    return [_row(row) for row in rows]


async def came_of(connection: AsyncConnection, readers: Collection[Reader]) -> list[VersionRow]:
    """Give the versions that the readers of another one have made, newest first."""
    columns = artifact_versions.c
    rows = await connection.execute(
        uses.made_by(_described(), readers)
        .order_by(columns.create_time.desc(), *_BY_NAME)
        .limit(_MOST_RELATED)
    )
    return [_row(row) for row in rows]


async def delete(connection: AsyncConnection, key: Key) -> None:
    """Make a version unknown that nothing refers to.

    Raises:
        NotFound: It is not there; see `series.find`.
        FailedPrecondition: An alias, a run or a job version refers to it; reason IN_USE.
    """
    await series.hold(connection, ARTIFACTS, key.series)
    await series.find(connection, ARTIFACTS, names.ArtifactVersionName(key.name))
    if words := await aliases.pointing_at(connection, ARTIFACTS, key):
        raise versions.pointed_at(key.name, words)
    if reader := await inputs.reader_of(connection, key):
        raise versions.in_use(
            key.name, f"{reader.name} reads it", "delete that first", job_version=reader.name
        )
    # This waits for those who note a use just now; what they noted is seen after it, and takes it back.
    await removal.bury(connection, ARTIFACTS, key)
    if run := await uses.run_of(connection, key):
        raise versions.in_use(key.name, f"{run} reads it", "it stays for as long as the run does", run=run)


def expired(now: datetime) -> Select[Any]:
    """Select the series and number of versions that retention may delete if no run reads them."""
    return removal.expired(ARTIFACTS, now).where(~inputs.named_by_number())


def purgeable(before: datetime) -> Select[Any]:
    """Select the series and number of versions deleted before a moment which nobody may bring back."""
    return removal.buried(ARTIFACTS, before).where(~inputs.ever_named_by_number())


def _described() -> Select[Any]:
    return series.described(ARTIFACTS, _SUMMARY)


def _row(row: Row[Any]) -> VersionRow:
    return VersionRow(
        key=Key(row.artifact, row.number),
        type=row.type,
        digest=row.digest,
        size_bytes=row.size_bytes,
        file_count=row.file_count,
        create_time=row.create_time,
        producer=Reader(row.producer_run, row.producer_job_version),
        metadata_json=row.metadata_json,
        aliases=series.words(row),
    )


def _artifacts() -> Select[Any]:
    columns = artifact_versions.c
    return select(artifacts, columns.type).join(
        artifact_versions, and_(columns.artifact == artifacts.c.name, columns.number == artifacts.c.latest)
    )


def _artifact(row: Row[Any]) -> ArtifactRow:
    return ArtifactRow(series.read(row), row.type)
