"""What W&B's SDK wrote of a job, read and repaired: decisions only, no I/O.

W&B writes some of it wrongly: "pythonCPython 3.11" for the interpreter, "CPython 3.11.7" or "" for its
version, and passwords where a remote had some. What Towline has no place for is noted, with the reason.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from towline.capture.git import without_credentials
from towline.capture.wandb_notes import Notes, wrong
from towline.capture.wandb_types import is_empty, schema_of

__all__ = [
    "JOB",
    "OPEN_SCHEMA",
    "ArtifactSource",
    "ImageSource",
    "RepoSource",
    "WandbJob",
    "job_name",
    "read_job",
    "safe_name",
    "translated",
]

JOB: Final = "wandb-job.json"
OPEN_SCHEMA: Final[Mapping[str, Any]] = {"type": "object"}
DEFAULT_PYTHON: Final = "3.11"

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BROKEN_PYTHON: Final = re.compile(r"python(?:CPython|PyPy)\s*(?P<version>[\d.]*)")
_VERSION: Final = re.compile(r"(?<![\d.])3\.\d+(\.\d+)?")
_NO_BUILD: Final = "Towline builds images from the environment itself"
_NOT_CARRIED: Final = {
    "dockerfile": f"{_NO_BUILD}, unless the job is recorded with the Dockerfile (towline job create code "
    "--dockerfile FILE), or is an image that was built with it (towline job create image)",
    "build_context": f"{_NO_BUILD}; the whole source tree is there",
    "base_image": f"{_NO_BUILD}, on the agent's base images (TOWLINE_AGENT_BASE_IMAGES)",
}


@dataclass(frozen=True)
class RepoSource:
    """A commit."""

    remote: str
    commit: str


@dataclass(frozen=True)
class ArtifactSource:
    """Code that only W&B's server has."""

    artifact: str
    """Its id there."""


@dataclass(frozen=True)
class ImageSource:
    """An image."""

    reference: str


@dataclass(frozen=True)
class WandbJob:
    """A job of W&B, repaired."""

    source: RepoSource | ArtifactSource | ImageSource
    entrypoint: tuple[str, ...]
    """The command; empty: none is told."""
    python: str
    """Version of the interpreter, "X.Y.Z" or "X.Y"; empty for images."""
    input_schema: Mapping[str, Any]
    result_schema: Mapping[str, Any] | None
    """None: nothing is known of its results."""


def read_job(written: Any, notes: Notes, *, python: str = "", command: Sequence[str] = ()) -> WandbJob:
    """Read wandb-job.json.

    Args:
        written: Its content.
        notes: Gets what is repaired and left out.
        python: Version of the interpreter in place of the one written there.
        command: The command in place of the one written there.

    Raises:
        InvalidArgument: It is none that W&B writes; the message names the file and the field.
    """
    reader = _Reader(written)
    source = _source(reader, notes)
    said = reader.object("source")
    _note_left_out(reader, said, notes)
    entrypoint, hint = tuple(command), ""
    if not entrypoint:
        entrypoint, hint = _command(reader, notes)
        if isinstance(source, ImageSource):
            entrypoint = _image_command(entrypoint, reader.words("source.args"), notes)
        elif not entrypoint:
            raise wrong(JOB, "source.entrypoint", "is missing or empty; give the command after --")
    version = ""
    if not isinstance(source, ImageSource):
        version = python or _python(reader.text("runtime", default=""), hint, notes)
    return WandbJob(source, entrypoint, version, _inputs(reader, notes), _results(reader, notes))


def _source(reader: "_Reader", notes: Notes) -> RepoSource | ArtifactSource | ImageSource:
    match reader.text("source_type"):
        case "repo":
            return _repo(reader, notes)
        case "artifact":
            return ArtifactSource(reader.text("source.artifact"))
        case "image":
            return ImageSource(reader.text("source.image"))
        case other:
            raise wrong(JOB, "source_type", f"{other!r} is none of repo, artifact, image")


def _note_left_out(reader: "_Reader", said: Mapping[str, Any], notes: Notes) -> None:
    for key, why in _NOT_CARRIED.items():
        if said.get(key):
            notes.leave_out(f"source.{key}", f"{said[key]}: {why}")
    if services := reader.object("services", default={}):
        notes.leave_out("services", f"{', '.join(services)}: a run of Towline is one container")
    if reader.written.get("_partial"):
        notes.repair("_partial", "W&B had seen no run of it, so the types of its parameters may be unknown")


def _command(reader: "_Reader", notes: Notes) -> tuple[tuple[str, ...], str]:
    """Give the repaired command, and the version of Python that the broken one names."""
    words = reader.words("source.entrypoint")
    if words and words[0].lower().endswith(".exe"):
        unix = (words[0][: -len(".exe")], *(word.replace("\\", "/") for word in words[1:]))
        notes.repair("source.entrypoint", f"{' '.join(words)} was started on Windows; it is {' '.join(unix)}")
        return unix, ""
    broken = _BROKEN_PYTHON.fullmatch(words[0]) if words else None
    if broken is None:
        return words, ""
    notes.repair("source.entrypoint", f"{words[0]!r} is no program; it is python")
    return ("python", *words[1:]), broken["version"]


class _Reader:
    """Fields of the file by their path, checked."""

    def __init__(self, written: Any) -> None:
        if not isinstance(written, dict):
            raise wrong(JOB, "", "must hold a JSON object")
        self.written: dict[str, Any] = written

    def object(self, path: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        value = self._get(path, default)
        if not isinstance(value, dict):
            raise wrong(JOB, path, "must be an object")
        return value

    def text(self, path: str, default: str | None = None) -> str:
        value = self._get(path, default)
        if not isinstance(value, str) or (default is None and not value):
            raise wrong(
                JOB, path, "must be a text that is not empty" if default is None else "must be a text"
            )
        return value

    def words(self, path: str) -> tuple[str, ...]:
        value = self._get(path, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise wrong(JOB, path, "must be a list of texts")
        return tuple(value)

    def _get(self, path: str, default: Any) -> Any:
        value: Any = self.written
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            if default is None:
                raise wrong(JOB, path, "is missing; this is not a job as W&B writes it")
            return default
        return value


def _repo(reader: _Reader, notes: Notes) -> RepoSource:
    written = reader.text("source.git.remote")
    commit = reader.text("source.git.commit")
    if not _COMMIT.fullmatch(commit):
        raise wrong(
            JOB,
            "source.git.commit",
            f"{commit[:80]!r} is no commit; write its 40 or 64 lower-case hex digits",
        )
    remote = without_credentials(written)
    if remote != written:
        notes.repair(
            "source.git.remote", f"user name and password are taken out: {remote}; agents have their own"
        )
    return RepoSource(remote, commit)


def _python(runtime: str, hint: str, notes: Notes) -> str:
    found = _VERSION.search(runtime)
    if found is None and runtime.strip():
        raise wrong(JOB, "runtime", f"{runtime[:80]!r} names no version of Python 3; give one with --python")
    if found is not None:
        if found[0] != runtime:
            notes.repair("runtime", f"{runtime!r} is {found[0]}")
        return found[0]
    guessed = _VERSION.search(hint)
    version = guessed[0] if guessed else DEFAULT_PYTHON
    why = "as the entrypoint says" if guessed else "--python takes another"
    notes.repair("runtime", f"it is empty; {version} is taken, {why}")
    return version


def _image_command(entrypoint: tuple[str, ...], arguments: tuple[str, ...], notes: Notes) -> tuple[str, ...]:
    if entrypoint or not arguments:
        return entrypoint + arguments
    if arguments[0].startswith("-"):
        raise wrong(
            JOB,
            "source.args",
            f"{' '.join(arguments)} are options of the image's own command, which is not told; give the "
            "whole command after --",
        )
    notes.repair(
        "source.args",
        f"{' '.join(arguments)} is taken as the whole command; if the image has an ENTRYPOINT of its own, "
        "give the whole command after --",
    )
    return arguments


def _inputs(reader: _Reader, notes: Notes) -> Mapping[str, Any]:
    written = reader.object("input_types", default={})
    if not written or is_empty(written):
        notes.repair("input_types", "W&B knows no parameter of it, so a submission may set any")
        return OPEN_SCHEMA
    schema = translated(written, "input_types", notes)
    if schema.get("type") != "object":
        raise wrong(JOB, "input_types", "must be a typedDict: parameters have names")
    # W&B keeps facts of its own among the parameters.
    kept = {key: each for key, each in schema.get("properties", {}).items() if key != "_wandb"}
    return {**schema, "properties": kept}


def _results(reader: _Reader, notes: Notes) -> Mapping[str, Any] | None:
    written = reader.object("output_types", default={})
    if not written or is_empty(written):
        return None
    schema = translated(written, "output_types", notes)
    # _step, _runtime and the like are W&B's own.
    kept = {key: each for key, each in schema.get("properties", {}).items() if not key.startswith("_")}
    return {**schema, "properties": kept} if kept else None


def translated(written: Any, place: str, notes: Notes) -> Mapping[str, Any]:
    """Give the schema of a type of W&B.

    Raises:
        InvalidArgument: It is none; the message names the place.
    """

    def unknown(where: str, name: str) -> None:
        notes.leave_out(where, f"{name!r} has no JSON Schema, so any value is taken")

    try:
        return schema_of(written, place, unknown)
    except ValueError as error:
        where, _, problem = str(error).partition(": ")
        raise wrong(JOB, where, problem) from None


def job_name(job: WandbJob) -> str:
    """Name a job that has no name: after its repository, its script or its image."""
    script = next((word for word in job.entrypoint[1:] if not word.startswith("-")), "")
    words = [PurePosixPath(script).stem] if script else []
    match job.source:
        case RepoSource(remote):
            repository = re.split(r"[/:]", remote.rstrip("/"))[-1]
            words.insert(0, repository.removesuffix(".git"))
        case ImageSource(reference):
            words = [re.split(r"[:@]", reference.rpartition("/")[2])[0]]
    return safe_name("-".join(words)) or "imported"


def safe_name(name: str) -> str:
    """Make a name one that jobs may have: what it must not hold becomes "_"."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("-.")[:128]
