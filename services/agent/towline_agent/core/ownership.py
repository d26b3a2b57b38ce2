"""Whose a container or a volume is: the labels and names that say so; standard library only."""

from dataclasses import dataclass
from typing import Final

__all__ = [
    "LABEL_AGENT",
    "LABEL_EPOCH",
    "LABEL_INSTANCE",
    "LABEL_JOB",
    "LABEL_KEY",
    "LABEL_LEASE",
    "LABEL_MADE_BY",
    "LABEL_RUN",
    "LABEL_SPARE",
    "Owner",
    "attempt_key",
    "container_name",
    "made_labels",
]

LABEL_RUN: Final = "towline.run"
LABEL_EPOCH: Final = "towline.epoch"
LABEL_LEASE: Final = "towline.lease"
LABEL_AGENT: Final = "towline.agent"
# Two installations on one node may name their agents alike; neither may touch the other's containers.
LABEL_INSTANCE: Final = "towline.instance"
# Of volumes that are filled for runs to come, and of the containers that they are filled through.
LABEL_SPARE: Final = "towline.spare"
# Of a container, its run's; of an image, that of the run that it was made for, and others use it as well.
LABEL_JOB: Final = "towline.job"
# Of images that Towline made; their containers have them as well.
LABEL_KEY: Final = "towline.key"
LABEL_MADE_BY: Final = "towline.made-by"


@dataclass(frozen=True)
class Owner:
    """Whose containers they are."""

    agent: str
    """"agents/{agent}"."""
    instance_id: str
    """Id of the agent's data folder."""

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that tell its containers from all others."""
        return {LABEL_AGENT: self.agent, LABEL_INSTANCE: self.instance_id}


def made_labels(builder: str, key: str, job: str) -> dict[str, str]:
    """Return the labels of an image that Towline makes.

    Args:
        builder: Id of the data folder of the agent that makes it.
        key: Content key, "sha256:" + 64 hex digits.
        job: "jobs/{job}/versions/{version}" that it is made for.
    """
    return {LABEL_MADE_BY: builder, LABEL_KEY: key, LABEL_JOB: job}


def attempt_key(run: str, epoch: int) -> str:
    """Name an attempt in a path or a container's name: "<run id>-<epoch>"."""
    return f"{run.removeprefix('runs/')}-{epoch}"


def container_name(run: str, epoch: int) -> str:
    """Name the container of an attempt."""
    return f"towline-{attempt_key(run, epoch)}"
