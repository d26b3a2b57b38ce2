"""Submissions made from what people wrote."""

import getpass
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from towline.cli import enums, values, yaml_files
from towline.v1 import runs_pb2

__all__ = ["Wishes", "author", "build", "parameters"]


@dataclass(frozen=True)
class Wishes:
    """What `submit` and `launch` let people say about a run."""

    settings: Sequence[str] = ()
    config: Path | None = None
    variables: Sequence[str] = ()
    gpus: int | None = None
    priority: str | None = None
    name: str = ""
    labels: Sequence[str] = ()


def build(job: str, queue: str, wishes: Wishes) -> runs_pb2.RunSubmission:
    """Make a submission.

    Raises:
        InvalidArgument: Something cannot be read; the message names the option.
    """
    given = parameters(wishes.settings, wishes.config)
    priority = (
        enums.parse(runs_pb2.Priority, "PRIORITY_", wishes.priority, "--priority")
        if wishes.priority
        else runs_pb2.PRIORITY_UNSPECIFIED
    )
    return runs_pb2.RunSubmission(
        job=job,
        queue=queue,
        config_json=json.dumps(given) if given else "",
        variables=values.variables(wishes.variables, wishes.gpus),
        priority=priority,
        display_name=wishes.name,
        author=author(),
        labels=values.pairs(wishes.labels, "--label"),
    )


def parameters(settings: Sequence[str], config: Path | None) -> dict[str, Any]:
    """Read --set and --config into one object; --set goes over --config.

    Raises:
        InvalidArgument: One cannot be read; the message names the option.
    """
    below = yaml_files.read_object(config, "--config") if config else {}
    return values.merged(below, values.settings(settings))


def author() -> str:
    """Give the name of whoever types; empty where the system has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""
