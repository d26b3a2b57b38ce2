"""The folder that a job of W&B is downloaded to, read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from towline.capture.wandb_job import JOB, RepoSource, WandbJob, job_name, read_job, safe_name
from towline.capture.wandb_metadata import Metadata, read_metadata
from towline.capture.wandb_notes import Notes, wrong
from towline.capture.wandb_patch import PATCH, Patch, read_patch
from towline.capture.wandb_requirements import FROZEN, Frozen, read_frozen
from towline.errors import InvalidArgument
from towline.requests import json_values

__all__ = ["Folder", "Wanted", "as_text", "read"]

_MOST_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class Wanted:
    """What people say of an import."""

    folder: Path
    """With wandb-job.json in it."""
    metadata: Path | None = None
    """File with the metadata of the job's artifact."""
    name: str = ""
    """Name of the job; empty: made from what W&B wrote."""
    python: str = ""
    requirements: Path | None = None
    """File with requirements in place of the frozen list."""
    without: Sequence[str] = ()
    """Packages to leave out of it."""
    command: Sequence[str] = ()
    """In place of the entrypoint."""


@dataclass(frozen=True)
class Folder:
    """What it holds."""

    name: str
    """Of the job of Towline."""
    job: WandbJob
    metadata: Metadata
    frozen: Frozen
    patch: Patch


def read(wanted: Wanted, notes: Notes) -> Folder:
    """Read a job as W&B's SDK wrote it.

    Raises:
        InvalidArgument: A file is missing, cannot be read, or holds what W&B does not write; the message
            names the file and the field.
    """
    if not wanted.folder.is_dir():
        raise InvalidArgument.field("DIR", f"{wanted.folder} is not a folder")
    written = _file(wanted.folder / JOB)
    if written is None:
        raise wrong(
            JOB, "", f"is not in {wanted.folder}; give the folder that a job of W&B was downloaded to"
        )
    job = read_job(_json(written, JOB), notes, python=wanted.python, command=wanted.command)
    metadata = _metadata(wanted.metadata, notes)
    name = wanted.name or metadata.name or safe_name(job_name(job))
    return Folder(name, job, metadata, _frozen(wanted, notes), _patch(job, wanted.folder, notes))


def _metadata(file: Path | None, notes: Notes) -> Metadata:
    if file is None:
        return Metadata()
    return read_metadata(_json(_needed(file, "--artifact-metadata"), str(file)), str(file), notes)


def _frozen(wanted: Wanted, notes: Notes) -> Frozen:
    if file := wanted.requirements:
        return read_frozen(as_text(_needed(file, "--requirements")), wanted.without, notes, file=str(file))
    return read_frozen(as_text(_file(wanted.folder / FROZEN) or b""), wanted.without, notes)


def _patch(job: WandbJob, folder: Path, notes: Notes) -> Patch:
    data = _file(folder / PATCH) if isinstance(job.source, RepoSource) else None
    try:
        return read_patch(data or b"", notes)
    except ValueError as error:
        raise wrong(PATCH, "", str(error)) from None


def _file(path: Path) -> bytes | None:
    """Read a file; None where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise wrong(str(path), "", f"cannot be read ({error.strerror})") from None
    if len(data) > _MOST_BYTES:
        raise wrong(str(path), "", f"is larger than {_MOST_BYTES // 2**20} MiB; this is not what W&B writes")
    return data


def _needed(path: Path, option: str) -> bytes:
    data = _file(path)
    if data is None:
        raise InvalidArgument.field(option, f"there is no file {path}")
    return data


def as_text(data: bytes) -> str:
    """Read text that may be damaged: a line that is odd is noted, not the whole file refused."""
    return data.decode(errors="replace")


def _json(data: bytes, file: str) -> Any:
    try:
        return json_values.parse(data.decode())
    except ValueError as error:  # UnicodeDecodeError is one
        problem = "is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise wrong(file, "", problem) from None
