"""Inputs of runs: the volumes that hold them, where programs find them, and files made of parameters."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from towline import names
from towline.v1 import runs_pb2
from towline_agent.core import sizes
from towline_agent.core.containers import INPUTS

__all__ = [
    "FILLED",
    "LABEL_FILLER",
    "LABEL_INPUT",
    "LABEL_INPUT_OWNER",
    "Stored",
    "config_files",
    "filler_config",
    "input_mounts",
    "oldest_first",
    "progress",
    "volume_labels",
    "volume_name",
]

# Not the labels of runs: what is kept for later runs belongs to none.
LABEL_INPUT: Final = "towline.input"
LABEL_INPUT_OWNER: Final = "towline.input-owner"
_LABEL_SIZE: Final = "towline.input-size"
LABEL_FILLER: Final = "towline.input-filler"
FILLED: Final = "/towline-input"
"""Where a volume is in the container that it is filled through."""


@dataclass(frozen=True)
class Stored:
    """An artifact version in a volume of its own.

    Attributes:
        digest: Of the artifact version.
        size: Of its files in bytes.
        volume: Name of the volume.
        used_at: When it was used last, in seconds since the epoch.
    """

    digest: str
    size: int
    volume: str
    used_at: float


def volume_name(digest: str, token: str) -> str:
    """Name the volume of an artifact version; `token` tells it from an earlier one that was not filled."""
    return f"towline-input-{digest.removeprefix('sha256:')[:12]}-{token}"


def volume_labels(digest: str, size: int, instance_id: str) -> dict[str, str]:
    """Make the labels of a volume of the agent whose data folder has this id."""
    return {LABEL_INPUT: digest, LABEL_INPUT_OWNER: instance_id, _LABEL_SIZE: str(size)}


def filler_config(image: str, volume: str, label: str) -> dict[str, Any]:
    """Make the body of "create container" for one that is never started: its volume is filled through it."""
    mount = {"Type": "volume", "Source": volume, "Target": FILLED, "VolumeOptions": {"NoCopy": True}}
    return {
        "Image": image,
        "Entrypoint": [FILLED],
        "Labels": {LABEL_FILLER: label},
        "HostConfig": {"Mounts": [mount], "NetworkMode": "none"},
    }


def input_mounts(volumes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Make the mounts of a run's container: volumes by the names of the inputs, read-only."""
    return [
        {
            "Type": "volume",
            "Source": volume,
            "Target": f"{INPUTS}/{name}",
            "ReadOnly": True,
            "VolumeOptions": {"NoCopy": True},
        }
        for name, volume in sorted(volumes.items())
    ]


def oldest_first(stored: Iterable[Stored]) -> list[Stored]:
    """Put what was used longest ago first: in this order it goes where room is needed."""
    return sorted(stored, key=lambda one: (one.used_at, one.volume))


def config_files(spec: runs_pb2.LaunchSpec) -> dict[str, bytes]:
    """Make the configuration files of a run from its parameters: JSON texts by path in the source tree."""
    if spec.job.WhichOneof("source") == "image" or not spec.job.config_files:
        return {}
    parameters = json.loads(spec.config_json or "{}")
    return {
        file.path: json.dumps(parameters[file.key], indent=2, ensure_ascii=False).encode() + b"\n"
        for file in spec.job.config_files
        if file.key in parameters
    }


def progress(name: str, version: str, done: int, total: int) -> str:
    """Say how far an input is, such as "getting input data (mnist:v3), 1.2 of 2.0 GiB"."""
    return f"getting input {name} ({names.short(version)}), {sizes.part(done, total)}"
