"""Submissions made from what people wrote."""

import getpass
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from towline import durations
from towline.cli import enums, values, yaml_files
from towline.client import retry_policy, time_limits
from towline.errors import InvalidArgument
from towline.v1 import jobs_pb2, runs_pb2

__all__ = ["Wishes", "author", "build", "dockerfile", "parameters"]


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
    inputs: Sequence[str] = ()
    retries: Sequence[str] = ()
    max_runtime: str | None = None
    max_wait: str | None = None
    dockerfile: str = ""
    """Path in the job's source tree."""
    build_args: Sequence[str] = ()
    target: str = ""


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
        inputs=values.inputs(wishes.inputs),
        limits=_limits(wishes),
        retry_policy=retry_policy(values.retries(wishes.retries)) if wishes.retries else None,
        dockerfile=dockerfile(wishes.dockerfile, wishes.build_args, wishes.target),
    )


def dockerfile(path: str, build_args: Sequence[str], target: str) -> jobs_pb2.DockerfileBuild | None:
    """Write down how an image is built; None where nothing is said of it.

    Raises:
        InvalidArgument: A build argument cannot be read.
    """
    if not (path or build_args or target):
        return None
    arguments = values.pairs(build_args, "--build-arg")
    return jobs_pb2.DockerfileBuild(path=path, build_args=arguments, target=target)


def _limits(wishes: Wishes) -> runs_pb2.TimeLimits | None:
    given = {"max_runtime": wishes.max_runtime, "max_wait": wishes.max_wait}
    limits = {name: _limit(text, name) for name, text in given.items() if text is not None}
    return time_limits(**limits) if limits else None


def _limit(text: str, name: str) -> timedelta:
    option = f"--{name.replace('_', '-')}"
    span = durations.parse(text, option)
    if not span:
        raise InvalidArgument.field(option, f"{text!r} is no time at all; give more than 0, or leave it out")
    return span


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
