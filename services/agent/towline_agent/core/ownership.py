"""Whose a container or a volume is: the labels and names that say so; standard library only."""

from dataclasses import dataclass
from typing import Final

__all__ = [
    "LABEL_AGENT",
    "LABEL_EPOCH",
    "LABEL_INSTANCE",
    "LABEL_LEASE",
    "LABEL_RUN",
    "Owner",
    "attempt_key",
    "container_name",
]

LABEL_RUN: Final = "towline.run"
LABEL_EPOCH: Final = "towline.epoch"
LABEL_LEASE: Final = "towline.lease"
LABEL_AGENT: Final = "towline.agent"
# Two installations on one node may name their agents alike; neither may touch the other's containers.
LABEL_INSTANCE: Final = "towline.instance"


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


def attempt_key(run: str, epoch: int) -> str:
    """Name an attempt in a path or a container's name: "<run id>-<epoch>"."""
    return f"{run.removeprefix('runs/')}-{epoch}"


def container_name(run: str, epoch: int) -> str:
    """Name the container of an attempt."""
    return f"towline-{attempt_key(run, epoch)}"
