"""Configuration files whose content is part of the parameters, read from the snapshot."""

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from towline.capture.source import Snapshot

__all__ = ["Found", "read"]

_SUFFIXES: Final = (".json", ".yaml", ".yml")


class Found(NamedTuple):
    """What became of the files that were named."""

    paths: dict[str, str]
    """By parameter: the path in the source tree."""
    contents: dict[str, Any]
    """By parameter: an object, as JSON holds it."""
    problems: list[str]
    """One line for people for each file that is not taken."""


def read(files: Mapping[str, str], snapshot: Snapshot, config: Mapping[str, Any]) -> Found:
    """Read files of a snapshot.

    Args:
        files: Absolute paths, by the parameter that their content becomes.
        snapshot: The source tree, as it was at the start.
        config: The other parameters; a file does not replace one.
    """
    found = Found({}, {}, [])
    for key, file in files.items():
        try:
            path = _path(file, snapshot)
            if key in config:
                raise ValueError(f"there is a parameter {key} already; give the file another name")
            if path in found.paths.values():
                raise ValueError("it is another parameter's file already")
            found.contents[key] = _content(path, snapshot.archive)
            found.paths[key] = path
        except ValueError as error:
            found.problems.append(f"the config file {key}={file} is no parameter: {error}")
    return found


def _path(file: str, snapshot: Snapshot) -> str:
    root = snapshot.root.resolve()
    place = Path(file).parent.resolve() / Path(file).name
    if not place.is_relative_to(root):
        raise ValueError(f"it lies outside of the source tree {root}; copy it there")
    path = place.relative_to(root).as_posix()
    if PurePosixPath(path).suffix not in _SUFFIXES:
        raise ValueError(f"its name must end in one of {', '.join(_SUFFIXES)}")
    if path not in snapshot.paths:
        there = place.exists()
        why = "it is not in the snapshot; does an ignore file name it?" if there else "it does not exist"
        raise ValueError(snapshot.left_out.get(path) or why)
    return path


def _content(path: str, archive: Path) -> Any:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(path)
        data = member.read() if member else b""
    content = json.loads(data) if path.endswith(".json") else _yaml(data)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    try:
        return json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"JSON cannot hold it: {error}") from None


def _yaml(data: bytes) -> Any:
    try:
        import yaml  # noqa: PLC0415 - the program's environment may have none
    except ImportError:
        raise ValueError("PyYAML is not installed here; write it as JSON, or install PyYAML") from None
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
