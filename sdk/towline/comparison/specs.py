"""What differs between the contents of two job versions: decisions only, no I/O."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from towline.names import short
from towline.requests import json_values
from towline.v1 import jobs_pb2

__all__ = ["Change", "Kind", "compare", "sections"]

# Sections whose keys people chose, with dots and spaces perhaps.
_OBJECTS: Final = ("config", "schema")
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class Kind(Enum):
    """What became of something."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Change(NamedTuple):
    """One difference."""

    section: str
    """What it is about: "source", "command", "python", "dependencies", "config", "schema", "inputs", …"""
    path: str
    """Where in it, such as "optimizer.lr" or "numpy"; empty: the whole."""
    kind: Kind
    before: Any
    """As JSON; None where it was added, or null."""
    after: Any
    """As JSON; None where it was removed, or null."""


def compare(before: jobs_pb2.JobSpec, after: jobs_pb2.JobSpec) -> list[Change]:
    """Give what differs, section by section; provenance is no content, and files are compared by `trees`."""
    old, new = dict(_sections(before)), dict(_sections(after))
    return [change for section in old for change in _changes(section, "", old[section], new[section])]


def _sections(spec: jobs_pb2.JobSpec) -> Iterator[tuple[str, Any]]:
    yield "source", _source(spec)
    yield (
        "command",
        {
            key: value
            for key, value in (("entrypoint", list(spec.entrypoint)), ("working_dir", spec.working_dir))
            if value
        },
    )
    yield "python", _python(spec.python)
    yield "dependencies", dict(map(_dependency, spec.python.requirements))
    yield "dockerfile", _dockerfile(spec.dockerfile)
    yield "image", {"platform": spec.platform} if spec.platform else {}
    yield "config", json_values.parse(spec.config_json or "{}")
    yield "schema", json_values.parse(spec.input_schema_json or "{}")
    yield "inputs", {each.name: short(each.artifact) for each in spec.inputs}
    yield "config files", {each.path: each.key for each in spec.config_files}
    yield "resources", {"gpus": spec.hints.gpus} if spec.hints.gpus else {}


def _source(spec: jobs_pb2.JobSpec) -> dict[str, Any]:
    match spec.WhichOneof("source"):
        case "code":
            return {"kind": "code", "digest": spec.code.digest}
        case "git":
            git = spec.git
            said = {
                "remote": git.remote,
                "commit": git.commit,
                "subfolder": git.subfolder,
                "patch": git.patch_digest,
            }
            return {"kind": "git", **{key: value for key, value in said.items() if value}}
        case "image":
            return {"kind": "image", "reference": spec.image.reference}
    return {}


def _python(python: jobs_pb2.PythonEnvironment) -> dict[str, Any]:
    lock = python.lock
    said: dict[str, Any] = {
        "version": python.version,
        "extra_index_urls": list(python.extra_index_urls),
        "wheels": {wheel.filename: wheel.digest for wheel in python.wheels},
        "editables": list(python.editables),
        "system_packages": list(python.system_packages),
        "lock": {"path": lock.path, "digest": lock.digest, "extras": list(lock.extras)} if lock.path else {},
    }
    return {key: value for key, value in said.items() if value}


def _dockerfile(build: jobs_pb2.DockerfileBuild) -> dict[str, Any]:
    said: dict[str, Any] = {
        "path": build.path,
        "build_args": dict(build.build_args),
        "target": build.target,
    }
    return {key: value for key, value in said.items() if value}


def _dependency(requirement: str) -> tuple[str, str]:
    """Part a requirement into the name, as PEP 503 writes it, and what is wanted of it."""
    found = _NAME.match(requirement)
    if found is None:
        return requirement, ""
    name = re.sub(r"[-_.]+", "-", found[0]).lower()
    return name, requirement[found.end() :].strip().removeprefix("==")


def _changes(section: str, path: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _members(section, path, before, after)
    elif _are_alike(before, after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changes(section, f"{path}[{index}]", old, new)
    elif not _equal(before, after):
        yield Change(section, path, Kind.CHANGED, before, after)


def _members(
    section: str, path: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Change]:
    for key in sorted({*before, *after}):
        inner = _join(path, key) if section in _OBJECTS else ".".join(filter(None, (path, key)))
        if key not in after:
            yield Change(section, inner, Kind.REMOVED, before[key], None)
        elif key not in before:
            yield Change(section, inner, Kind.ADDED, None, after[key])
        else:
            yield from _changes(section, inner, before[key], after[key])


def _are_alike(before: Any, after: Any) -> bool:
    """Whether both are lists that are worth comparing item by item: those of objects."""

    def objects(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, dict) for item in value)

    return objects(before) and objects(after) and len(before) == len(after)


def _equal(before: Any, after: Any) -> bool:
    # 1, 1.0 and true are equal in Python, and not the same parameter.
    return json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)


def _join(path: str, key: str) -> str:
    if not re.fullmatch(r"[^\s.\[\]\"]+", key):
        key = json.dumps(key, ensure_ascii=False)
    return f"{path}.{key}" if path else key


def sections(changes: Sequence[Change]) -> dict[str, list[Change]]:
    """Give the changes by their section, in order."""
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.section, []).append(change)
    return found
