"""What a program has said of its results: its summary, and the artifacts that it has logged.

A program may write anything there; what is malformed is left out, with a line for people.
"""

import asyncio
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from towline.errors import InvalidArgument, NotFound
from towline.requests.json_values import parse
from towline.runtime.artifacts import FILES, MANIFEST
from towline.v1 import artifacts_pb2, runs_pb2
from towline_agent.core.containers import ARTIFACTS, SUMMARY
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.outputs import FileList, fetch, request_id

__all__ = ["Logged", "Summary", "collect_logged", "read_summary"]

_MOST_SUMMARY_BYTES: Final = 64 * 1024
_MOST_MANIFEST_BYTES: Final = 256 * 1024
# Of all of them: they are in memory until the last artifact is made.
_MOST_MANIFESTS_BYTES: Final = 16 * 1024 * 1024
_MOST_LOGGED: Final = 10_000
_FILES_OF_ONE: Final = "the files of a logged artifact"


@dataclass(frozen=True)
class Summary:
    """The results of a run."""

    text: str = ""
    """A JSON object; empty: none."""
    problem: str = ""
    """Why it is left out, in a line for people; empty: it is not."""


async def read_summary(engine: Engine, container: ContainerId) -> Summary:
    """Read the summary of an ended container."""
    archive = bytearray()
    try:
        async for chunk in engine.get_archive(container, SUMMARY):
            archive += chunk
            if len(archive) > 2 * _MOST_SUMMARY_BYTES:  # the program could have written anything there
                return Summary(
                    problem=f"its summary is left out: it is more than {_MOST_SUMMARY_BYTES} bytes"
                )
    except NotFound:
        return Summary()
    try:
        return Summary(_summary(bytes(archive)))
    except (ValueError, tarfile.TarError) as error:
        return Summary(problem=f"its summary is left out: it {error}")


def _summary(archive: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        member = tar.next()
        file = tar.extractfile(member) if member and member.isreg() else None
        data = file.read() if file else b""
    if len(data) > _MOST_SUMMARY_BYTES:
        raise ValueError(f"is more than {_MOST_SUMMARY_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("is no UTF-8 text") from None
    if text and not isinstance(parse(text), dict):  # an empty one is that of a program that wrote nothing
        raise ValueError("is no JSON object")
    return text


@dataclass(frozen=True)
class Logged:
    """An artifact that a program has logged."""

    number: str
    """Name of its folder."""
    manifest: bytes
    """As the program wrote it."""
    found: FileList

    def request(self, spec: runs_pb2.LaunchSpec, epoch: int) -> artifacts_pb2.CreateArtifactVersionRequest:
        """Ask for its version; without its files.

        Raises:
            ValueError: Its manifest is malformed.
        """
        try:
            said = parse(self.manifest.decode())
        except ValueError as error:
            raise ValueError(f"its manifest {error}") from None
        if not isinstance(said, dict):
            raise ValueError("its manifest is no JSON object")
        aliases = said.get("aliases") or []
        if not isinstance(aliases, list):
            raise ValueError(f"its manifest has {aliases!r:.80} where a list of aliases belongs")
        metadata = said.get("metadata")
        return artifacts_pb2.CreateArtifactVersionRequest(
            request_id=request_id(spec, epoch, "artifacts", self.number),
            artifact=f"artifacts/{_text(said, 'name')}",
            type=_text(said, "type"),
            aliases=[_word(alias) for alias in aliases],
            metadata_json=json.dumps(metadata, allow_nan=False) if metadata else "",
            producer_run=spec.run,
            producer_job_version=spec.job_version,
        )


def _text(said: dict[str, Any], name: str) -> str:
    return _word(said.get(name))


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"its manifest has {value!r:.80} where a word belongs")
    return value


async def collect_logged(engine: Engine, container: ContainerId, target: Path) -> list[Logged]:
    """Read what an ended container has logged into a file and list it, in the order in which it was logged.

    A folder without a manifest is that of a program which ended while it wrote; it is left out.

    Raises:
        InvalidArgument: One has more files than an artifact may have, or there are too many of them.
    """
    try:
        await fetch(engine, container, ARTIFACTS, target)
    except NotFound:
        return []
    return await asyncio.to_thread(_list, target)


def _list(path: Path) -> list[Logged]:
    lists: dict[str, FileList] = {}
    manifests: dict[str, bytes] = {}
    held = 0
    with tarfile.open(path, mode="r:") as archive:
        for member in archive:
            _, *parts = PurePosixPath(member.name).parts
            if len(parts) < 2 or not parts[0].isdecimal():
                continue
            number, kind, *rest = parts
            if kind == MANIFEST and member.isreg() and member.size <= _MOST_MANIFEST_BYTES:
                file = archive.extractfile(member)
                manifests[number] = file.read() if file else b""
                held += member.size
            elif kind == FILES and rest:
                found = lists.setdefault(number, FileList(path, _FILES_OF_ONE))
                found.add(member, str(PurePosixPath(*rest)))
            if held > _MOST_MANIFESTS_BYTES or len(lists) > _MOST_LOGGED:
                raise InvalidArgument(
                    f"more than {_MOST_LOGGED} artifacts were logged, or manifests of more than "
                    f"{_MOST_MANIFESTS_BYTES} bytes; log fewer, and put metadata into files",
                    reason="TOO_MANY_OUTPUTS",
                )
    logged = [
        Logged(number, manifests[number], lists.get(number, FileList(path, _FILES_OF_ONE)))
        for number in sorted(manifests, key=int)
    ]
    for each in logged:
        each.found.sort()
    return logged
