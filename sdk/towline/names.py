"""Resource names: how they are written, and the ids in them. Standard library only."""

import re
from typing import Final, NewType

from towline.errors import InvalidArgument

__all__ = [
    "AgentName",
    "ArtifactName",
    "ArtifactVersionName",
    "JobName",
    "JobVersionName",
    "QueueName",
    "RunName",
    "agent",
    "artifact",
    "artifact_version",
    "input_name",
    "job",
    "job_version",
    "queue",
    "run",
    "short",
    "split_version",
]

JobName = NewType("JobName", str)
JobVersionName = NewType("JobVersionName", str)
ArtifactName = NewType("ArtifactName", str)
ArtifactVersionName = NewType("ArtifactVersionName", str)
QueueName = NewType("QueueName", str)
RunName = NewType("RunName", str)
AgentName = NewType("AgentName", str)

_WORD: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_PATTERNS: Final = {
    "job": (re.compile(rf"jobs/{_WORD}"), "jobs/{job}", "letters, digits, '_', '.', '-', at most 128"),
    "job version": (
        re.compile(rf"jobs/{_WORD}/versions/{_WORD}"),
        "jobs/{job}/versions/{version or alias}",
        "letters, digits, '_', '.', '-', at most 128 each",
    ),
    "artifact": (
        re.compile(rf"artifacts/{_WORD}"),
        "artifacts/{artifact}",
        "letters, digits, '_', '.', '-', at most 128",
    ),
    "artifact version": (
        re.compile(rf"artifacts/{_WORD}/versions/{_WORD}"),
        "artifacts/{artifact}/versions/{version}",
        "letters, digits, '_', '.', '-', at most 128 each",
    ),
    "input": (
        re.compile(_WORD),
        "a word",
        "letters, digits, '_', '.', '-', at most 128, not '.' or '-' first",
    ),
    "queue": (
        re.compile(r"queues/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"),
        "queues/{queue}",
        "lower-case letters, digits and inner '-', at most 63",
    ),
    "run": (re.compile(r"runs/[a-z0-9-]{1,64}"), "runs/{run}", "as the service gave it"),
    "agent": (
        re.compile(rf"agents/{_WORD}"),
        "agents/{agent}",
        "letters, digits, '_', '.', '-', at most 128",
    ),
}


def _checked(kind: str, name: str, field: str) -> str:
    pattern, form, letters = _PATTERNS[kind]
    if not pattern.fullmatch(name):
        article = "an" if kind[0] in "aeiou" else "a"
        raise InvalidArgument.field(
            field, f"{name!r} is not the name of {article} {kind}; write {form} ({letters})"
        )
    return name


def job(name: str, field: str = "job") -> JobName:
    """Check the name of a job; InvalidArgument names `field`."""
    return JobName(_checked("job", name, field))


def job_version(name: str, field: str = "name") -> JobVersionName:
    """Check the name of a job version, by version or alias; InvalidArgument names `field`."""
    return JobVersionName(_checked("job version", name, field))


def artifact(name: str, field: str = "artifact") -> ArtifactName:
    """Check the name of an artifact; InvalidArgument names `field`."""
    return ArtifactName(_checked("artifact", name, field))


def artifact_version(name: str, field: str = "name") -> ArtifactVersionName:
    """Check the name of an artifact version; InvalidArgument names `field`."""
    return ArtifactVersionName(_checked("artifact version", name, field))


def input_name(name: str, field: str = "inputs") -> str:
    """Check what a run calls one of its inputs; InvalidArgument names `field`."""
    return _checked("input", name, field)


def queue(name: str, field: str = "queue") -> QueueName:
    """Check the name of a queue; InvalidArgument names `field`."""
    return QueueName(_checked("queue", name, field))


def run(name: str, field: str = "name") -> RunName:
    """Check the name of a run; InvalidArgument names `field`."""
    return RunName(_checked("run", name, field))


def agent(name: str, field: str = "agent") -> AgentName:
    """Check the name of an agent; InvalidArgument names `field`."""
    return AgentName(_checked("agent", name, field))


def split_version(name: JobVersionName | ArtifactVersionName) -> tuple[str, str]:
    """Split "jobs/a/versions/v0" into "jobs/a" and "v0"."""
    parent, _, version = name.partition("/versions/")
    return parent, version


def short(name: str) -> str:
    """Write a resource name as people do: "a:v0" for "jobs/a/versions/v0", "q" for "queues/q"."""
    parent, _, version = name.partition("/versions/")
    word = parent.partition("/")[2]
    return f"{word}:{version}" if version else word
