"""Which artifacts job versions read, as their specs name them: by version or by a word that points at one."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, any_, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, TEXT, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline import names
from towline.errors import NotFound
from towline.v1.jobs_pb2 import ArtifactInput
from towline_registry.core import versions
from towline_registry.storage import aliases, removal, series
from towline_registry.storage.series import ARTIFACTS, Key
from towline_registry.storage.tables import artifact_versions, artifacts, job_inputs, job_versions

__all__ = ["add", "ever_named_by_number", "named_by_number", "reader_of", "restore"]

_Names = ARRAY(TEXT(collation="C"))
_OF_ITS_VERSION = and_(job_versions.c.job == job_inputs.c.job, job_versions.c.number == job_inputs.c.number)


async def add(connection: AsyncConnection, key: Key, inputs: Sequence[ArtifactInput]) -> None:
    """Note what a job version reads; from here to the commit no version of it is deleted.

    Raises:
        NotFound: Some are not there, named by their fields; reason ARTIFACT_NOT_FOUND or
            ARTIFACT_VERSION_NOT_FOUND.
    """
    if not inputs:
        return
    read = [names.ArtifactVersionName(each.artifact) for each in inputs]
    pairs = {names.split_version(name) for name in read}
    # Deleting takes the lock of the artifact, too. In their order, so that two do not wait for each other.
    wanted = literal(sorted({artifact for artifact, _ in pairs}), _Names)
    await connection.execute(
        select(artifacts.c.name)
        .where(artifacts.c.name == any_(wanted))
        .order_by(artifacts.c.name)
        .with_for_update(read=True)
    )
    missing: dict[str, NotFound] = {}
    for each, name in zip(inputs, read, strict=True):
        try:
            await series.find(connection, ARTIFACTS, name)
        except NotFound as error:
            missing[f"spec.inputs[{each.name}].artifact"] = error
    if missing:
        raise _not_found(missing)
    await connection.execute(
        insert(job_inputs),
        [
            {"job": key.series, "number": key.number, "artifact": artifact, "word": word}
            for artifact, word in sorted(pairs)
        ],
    )


async def reader_of(connection: AsyncConnection, key: Key) -> Key | None:
    """Find a job version that reads an artifact version, by its number or a word that points at it."""
    parents = artifacts.c
    latest = select(parents.latest == key.number).where(parents.name == key.series).scalar_subquery()
    pointing = [versions.label(key.number), *await aliases.pointing_at(connection, ARTIFACTS, key)]
    row = (
        await connection.execute(
            select(job_inputs.c.job, job_inputs.c.number)
            .join(job_versions, _OF_ITS_VERSION)
            .where(
                job_inputs.c.artifact == key.series,
                or_(
                    job_inputs.c.word == any_(literal(pointing, _Names)),
                    and_(job_inputs.c.word == versions.LATEST, latest),
                ),
                job_versions.c.delete_time.is_(None),
            )
            .limit(1)
        )
    ).one_or_none()
    return Key(*row) if row else None


def named_by_number() -> ColumnElement[bool]:
    """Make the condition that a known job version names a row of `artifact_versions` by its number."""
    return _naming().join(job_versions, _OF_ITS_VERSION).where(job_versions.c.delete_time.is_(None)).exists()


def ever_named_by_number() -> ColumnElement[bool]:
    """Make the same condition for job versions that are deleted, too: they may become known again."""
    return _naming().exists()


def _naming() -> Select[Any]:
    return select(job_inputs.c.job).where(
        job_inputs.c.artifact == artifact_versions.c.artifact,
        job_inputs.c.word == _label(artifact_versions.c.number),
    )


async def restore(connection: AsyncConnection, key: Key) -> None:
    """Make artifact versions known again that a job version, known again, names by their numbers."""
    rows = await connection.execute(
        select(artifact_versions.c.artifact, artifact_versions.c.number)
        .join(
            job_inputs,
            and_(
                job_inputs.c.artifact == artifact_versions.c.artifact,
                job_inputs.c.word == _label(artifact_versions.c.number),
            ),
        )
        .where(
            job_inputs.c.job == key.series,
            job_inputs.c.number == key.number,
            artifact_versions.c.delete_time.is_not(None),
        )
        .order_by(artifact_versions.c.artifact)
    )
    for row in rows.all():
        await series.begin(connection, ARTIFACTS, row.artifact)
        await removal.restore(connection, ARTIFACTS, Key(*row))


def _not_found(missing: Mapping[str, NotFound]) -> NotFound:
    """Say of all at once which are not there; the reason is that of the first."""
    field, first = next(iter(missing.items()))
    return NotFound(
        "; ".join(f"{path}: {error.message}" for path, error in missing.items()),
        reason=first.reason,
        metadata=first.metadata | {"field": field},
    )


def _label(number: ColumnElement[int]) -> ColumnElement[str]:
    return func.concat("v", number)
