"""What the agent needs of an engine that builds with Dockerfiles; see classic_builds.py and buildkit.py."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["BuildEngine", "BuildEvent", "BuildOrder", "Output", "Refused", "StepBegan", "StepEnded"]


@dataclass(frozen=True)
class BuildOrder:
    """A build."""

    tag: str
    """"name:tag" that the image gets."""
    context: Path
    """Tar archive, uncompressed."""
    dockerfile: str
    """Its path in the context."""
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the image."""
    network: str = ""
    """Of its steps; empty: the engine's default."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Id → file with the secret, of those that its steps may mount."""


@dataclass(frozen=True)
class StepBegan:
    """A step of the Dockerfile has begun."""

    step: str
    """Such as "[2/4] RUN make"."""


@dataclass(frozen=True)
class Output:
    """What a step prints."""

    data: bytes


@dataclass(frozen=True)
class StepEnded:
    """A step has come to a good end."""

    step: str
    cached: bool
    """Whether it did not have to be carried out."""
    seconds: float | None = None
    """None: the engine does not tell."""


@dataclass(frozen=True)
class Refused:
    """The build has failed; nothing comes after it."""

    step: str
    """Which step has; empty: none, such as where the Dockerfile cannot be read."""
    why: str
    """In the engine's words."""


BuildEvent = StepBegan | Output | StepEnded | Refused


class BuildEngine(Protocol):
    """A builder of images.

    Errors are those of the Engine port. A build whose iteration is given up is broken off, and what it was
    about to make is not kept.
    """

    name: str
    """For people."""

    def build(self, order: BuildOrder) -> AsyncGenerator[BuildEvent, None]:
        """Build an image, telling what happens; it is there, under its tag, when the events have ended."""
        ...
