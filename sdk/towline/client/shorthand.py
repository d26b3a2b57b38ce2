"""Names as people write them: "digits-train:latest" for "jobs/digits-train/versions/latest"."""

from typing import Final

from towline import names
from towline.names import (
    AgentName,
    ArtifactName,
    ArtifactVersionName,
    JobName,
    JobVersionName,
    QueueName,
    RunName,
)

__all__ = [
    "agent",
    "artifact",
    "artifact_version",
    "expected",
    "job",
    "job_or_version",
    "job_version",
    "queue",
    "run",
]

LATEST: Final = "latest"
NO_ALIAS: Final = "none"
"""Stands for the version of an alias that is not there."""


def job(name: str) -> JobName:
    """Read "digits-train" or "jobs/digits-train"; InvalidArgument if it is neither."""
    return names.job(_whole("jobs", name))


def job_version(name: str) -> JobVersionName:
    """Read "digits-train:v0", "digits-train" (its latest) or the whole name of either."""
    return names.job_version(_versioned("jobs", name), field="job")


def job_or_version(name: str) -> JobName | JobVersionName:
    """Read a job, or a version where one is given."""
    return job_version(name) if ":" in name or "/versions/" in name else job(name)


def artifact(name: str) -> ArtifactName:
    """Read "digits" or "artifacts/digits"."""
    return names.artifact(_whole("artifacts", name))


def artifact_version(name: str) -> ArtifactVersionName:
    """Read "digits:v0", "digits" (its latest) or the whole name of either."""
    return names.artifact_version(_versioned("artifacts", name), field="artifact")


def expected(collection: str, name: str, version: str) -> str:
    """Read the version that an alias is expected to point at: "v2" of what `name` names, "none", or ""."""
    if version in ("", NO_ALIAS):
        return version
    if "/" in version or ":" in version:
        return _versioned(collection, version)
    parent, _, _ = _versioned(collection, name).partition("/versions/")
    return f"{parent}/versions/{version}"


def queue(name: str) -> QueueName:
    """Read "default" or "queues/default"."""
    return names.queue(_whole("queues", name))


def run(name: str) -> RunName:
    """Read a run's id or "runs/{run}"."""
    return names.run(_whole("runs", name), field="run")


def agent(name: str) -> AgentName:
    """Read "node-1" or "agents/node-1"."""
    return names.agent(_whole("agents", name))


def _whole(collection: str, name: str) -> str:
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"


def _versioned(collection: str, name: str) -> str:
    parent, colon, version = name.partition(":")
    whole = _whole(collection, parent)
    if colon:
        return f"{whole}/versions/{version}"
    return whole if "/versions/" in whole else f"{whole}/versions/{LATEST}"
