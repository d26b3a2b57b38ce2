"""What there is to say once everything is up."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """What a person wants to know once everything is up."""

    data_dir: Path
    addresses: Mapping[str, str]
    agent: str
    slots: int
    gpus: tuple[str, ...]
    """Models, one per GPU."""
    agent_problem: str
    """Why the agent has no session with the queue yet; empty: it has."""
    engine: str | None
    """Version of the Docker Engine; None where none answers."""
