"""From a record to the registry; safe to repeat at any point."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from towline.capture.records import Logged, Record
from towline.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    TowlineError,
    Unavailable,
)

if TYPE_CHECKING:
    from towline.client import AsyncClient
    from towline.v1 import jobs_pb2

__all__ = ["Sent", "may_work_later", "send"]

_FITS: Final = re.compile(r"\bspec\.(input_schema_json|config_json)\b")


class Sent(NamedTuple):
    """What the registry has made of a record."""

    response: "jobs_pb2.CreateJobVersionResponse"
    artifacts: list[str]
    """"artifacts/{artifact}/versions/{version}" of what was logged."""
    problems: list[str]
    """One line for people for each thing that the registry has not taken."""
    notes: list[str]
    """Lines for people about what it has taken in another way."""


async def send(client: "AsyncClient", folder: Path, record: Record) -> Sent:
    """Upload a record's bytes, make the version of its job, then what was logged, and note what was read.

    Raises:
        TowlineError: What the registry answered to the version itself; or, to anything, that trying again
            later may help.
        OSError: A file of the record cannot be read.
    """
    from google.protobuf import json_format  # noqa: PLC0415 - loaded at the end of a recording

    from towline.v1 import jobs_pb2  # noqa: PLC0415 - likewise

    for blob in record.blobs:
        await client.blobs.upload(folder / blob)
    spec = json_format.ParseDict(record.spec, jobs_pb2.JobSpec())
    notes = []
    try:
        response = await client.jobs.create_version(record.job, spec, author=record.author)
    except InvalidArgument as error:
        # What a model accepts and what its schema says may differ, where it converts what it is given.
        if not spec.input_schema_json or not _FITS.search(error.message):
            raise
        spec.input_schema_json = ""
        response = await client.jobs.create_version(record.job, spec, author=record.author)
        notes = [f"the schema is that of the types, not the config's own: {error.message}"]
    sent = Sent(response, artifacts=[], problems=[], notes=notes)
    for logged in record.logged:
        try:
            sent.artifacts.append(await _log(client, folder, logged, response.job_version.name))
        except TowlineError as error:
            if may_work_later(error):
                raise
            sent.problems.append(f"the artifact {logged.name} is not kept: {error.message}")
    try:
        if record.uses:
            await client.artifacts.record_uses(response.job_version.name, record.uses)
    except TowlineError as error:
        if may_work_later(error):
            raise
        sent.problems.append(f"which artifacts were read is not noted: {error.message}")
    return sent


def may_work_later(error: Exception) -> bool:
    """Say whether sending the same record again may help: later, or where nothing is missing."""
    return isinstance(
        error, (Unavailable, DeadlineExceeded, ResourceExhausted, Internal, TimeoutError, ImportError)
    )


async def _log(client: "AsyncClient", folder: Path, logged: Logged, job_version: str) -> str:
    from towline.client import About  # noqa: PLC0415 - as above

    about = About(
        aliases=logged.aliases,
        metadata=logged.metadata,
        producer_job_version=job_version,
        request_id=logged.request_id,
    )
    made = await client.artifacts.upload(folder / logged.folder, logged.name, logged.type, about=about)
    return made.artifact_version.name
