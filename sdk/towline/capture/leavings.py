"""What a recorded program has left for its recorder, see `towline.runtime.spool`."""

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from towline.capture.records import Logged
from towline.runtime import spool
from towline.runtime.artifacts import FILES, MANIFEST

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Leavings", "read"]


@dataclass(frozen=True)
class Leavings:
    """All of it; what is not whole is left out."""

    config: dict[str, Any] = field(default_factory=dict)
    config_files: dict[str, str] = field(default_factory=dict)
    """Absolute paths, by the parameter that their content becomes."""
    schema: dict[str, Any] = field(default_factory=dict)
    """JSON Schema that the config brought along; empty: none."""
    job: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    logged: list[Logged] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    """Artifact versions that were read, by the name of the input."""
    problems: list[str] = field(default_factory=list)
    """Lines for people."""


def read(folder: Path) -> Leavings:
    """Read what is in the folder of a recording."""
    init = spool.read_object(folder / spool.INIT)
    inputs, problems = _inputs(folder / spool.USES)
    return Leavings(
        config=init.get("config") or {},
        config_files=init.get("config_files") or {},
        schema=init.get("schema") or {},
        job=init.get("job") or "",
        summary=spool.read_object(folder / spool.SUMMARY),
        logged=_logged(folder),
        inputs=inputs,
        problems=problems,
    )


def _logged(folder: Path) -> list[Logged]:
    manifests = (folder / spool.ARTIFACTS).glob(f"*/{MANIFEST}")
    found = sorted((int(file.parent.name), file) for file in manifests if file.parent.name.isdecimal())
    return [_one(folder, file) for _, file in found]


def _one(folder: Path, file: Path) -> Logged:
    said: Mapping[str, Any] = spool.read_object(file)
    files = (file.parent / FILES).relative_to(folder)
    return Logged(
        str(files),
        str(uuid.uuid4()),
        said["name"],
        said["type"],
        list(said["aliases"]),
        dict(said["metadata"]),
    )


def _inputs(file: Path) -> tuple[dict[str, str], list[str]]:
    inputs: dict[str, str] = {}
    twice: dict[str, None] = {}
    try:
        uses = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}, []
    except ValueError as error:
        return {}, [f"what was read is not recorded: {error}"]
    for use in uses:
        if inputs.setdefault(use["name"], use["artifact"]) != use["artifact"]:
            twice[use["name"]] = None
    return inputs, [
        f"two artifacts were read as the input {name}; the job has {inputs[name]}. Give them names: "
        "run.use_artifact(…, name=…)"
        for name in twice
    ]
