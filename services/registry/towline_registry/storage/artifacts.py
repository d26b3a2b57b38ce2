"""Artifacts and their versions. Names are checked before they come here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline import names
from towline.errors import NotFound
from towline_registry.core import versions
from towline_registry.core.manifests import Manifest
from towline_registry.storage.tables import artifact_versions, artifacts

__all__ = ["NewVersion", "VersionRow", "add_version", "get", "get_manifest", "list_versions"]

_SUMMARY = [column for column in artifact_versions.c if column.name != "manifest"]


@dataclass(frozen=True)
class VersionRow:
    """A version as it is kept, without its manifest."""

    artifact: str
    number: int
    type: str
    digest: str
    size_bytes: int
    file_count: int
    create_time: datetime
    producer_run: str


@dataclass(frozen=True)
class NewVersion:
    """A version to be made."""

    type: str
    manifest: Manifest
    producer_run: str


async def add_version(
    connection: AsyncConnection, artifact: names.ArtifactName, new: NewVersion
) -> tuple[VersionRow, bool]:
    """Add a version unless the newest one has its type and digest; give it, and whether it was made."""
    await connection.execute(insert(artifacts).values(name=artifact).on_conflict_do_nothing())
    # From here to the commit nobody else adds to this artifact, so numbers have no gaps and no doubles.
    locked = await connection.execute(
        select(artifacts.c.version_count).where(artifacts.c.name == artifact).with_for_update(key_share=True)
    )
    count: int = locked.scalar_one()
    newest = await _find(connection, artifact, count - 1)
    if newest and (newest.type, newest.digest) == (new.type, new.manifest.digest):
        return newest, False
    row = await connection.execute(
        insert(artifact_versions)
        .values(
            artifact=artifact,
            number=count,
            type=new.type,
            digest=new.manifest.digest,
            size_bytes=new.manifest.size_bytes,
            file_count=new.manifest.file_count,
            manifest=new.manifest.serialized,
            producer_run=new.producer_run,
        )
        .returning(*_SUMMARY)
    )
    await connection.execute(
        artifacts.update().where(artifacts.c.name == artifact).values(version_count=count + 1)
    )
    return _row(row.one()), True


async def get(connection: AsyncConnection, name: names.ArtifactVersionName) -> VersionRow:
    """Read one version, by number or "latest".

    Raises:
        NotFound: There is no such artifact or version; reason ARTIFACT_NOT_FOUND.
    """
    artifact, word = names.split_version(name)
    count = await _count(connection, artifact)
    number = count - 1 if word == versions.LATEST else versions.number_of(word)
    row = None if number is None else await _find(connection, artifact, number)
    if row is None:
        raise NotFound(
            f"{artifact} has no version {word!r}; its versions are v0 to {versions.label(count - 1)}",
            reason="ARTIFACT_NOT_FOUND",
            metadata={"name": name},
        )
    return row


async def get_manifest(connection: AsyncConnection, row: VersionRow) -> bytes:
    """Read the manifest of a version: Manifest.serialized."""
    manifest: bytes = (
        await connection.execute(
            select(artifact_versions.c.manifest).where(_version(row.artifact, row.number))
        )
    ).scalar_one()
    return manifest


async def list_versions(
    connection: AsyncConnection, artifact: names.ArtifactName, *, before: int | None, limit: int
) -> list[VersionRow]:
    """Give up to `limit` versions below `before`, newest first.

    Raises:
        NotFound: There is no such artifact; reason ARTIFACT_NOT_FOUND.
    """
    count = await _count(connection, artifact)
    rows = await connection.execute(
        select(*_SUMMARY)
        .where(
            artifact_versions.c.artifact == artifact,
            artifact_versions.c.number < (count if before is None else min(before, count)),
        )
        .order_by(artifact_versions.c.number.desc())
        .limit(limit)
    )
    return [_row(row) for row in rows]


async def _count(connection: AsyncConnection, artifact: str) -> int:
    count: int | None = await connection.scalar(
        select(artifacts.c.version_count).where(artifacts.c.name == artifact)
    )
    if count is None:
        raise NotFound(f"there is no {artifact}", reason="ARTIFACT_NOT_FOUND", metadata={"name": artifact})
    return count


async def _find(connection: AsyncConnection, artifact: str, number: int) -> VersionRow | None:
    row = (await connection.execute(select(*_SUMMARY).where(_version(artifact, number)))).one_or_none()
    return _row(row) if row else None


def _version(artifact: str, number: int) -> ColumnElement[bool]:
    return and_(artifact_versions.c.artifact == artifact, artifact_versions.c.number == number)


def _row(row: Row[Any]) -> VersionRow:
    return VersionRow(**row._mapping)
