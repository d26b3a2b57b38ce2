"""Which of an engine's builders builds with a Dockerfile."""

from enum import StrEnum
from typing import Final

from towline.errors import FailedPrecondition
from towline_agent.engine.build_port import BuildEngine
from towline_agent.engine.port import Engine

__all__ = ["BuilderChoice", "Builders"]

# BuildKit knows no other networks.
_NETWORKS: Final = ("", "default", "host", "none")


class BuilderChoice(StrEnum):
    """What an agent is told about builders."""

    AUTO = "auto"
    """BuildKit where the engine has it and it can use the network of builds, else the classic builder."""
    BUILDKIT = "buildkit"
    CLASSIC = "classic"


class Builders:
    """The builders of an engine.

    Args:
        engine: The engine.
        choice: Which of them to use.
        network: Docker network of builds; empty: the engine's default.
    """

    def __init__(self, engine: Engine, choice: BuilderChoice, network: str) -> None:
        self._engine = engine
        self._choice = choice
        self._network = network

    async def choose(self, needs_buildkit: str) -> BuildEngine:
        """Return the builder for a Dockerfile.

        Args:
            needs_buildkit: What in it only BuildKit understands; empty: nothing.

        Raises:
            FailedPrecondition: It needs BuildKit, which is not here or not to be used; reason NO_BUILDKIT.
        """
        why_not = await self._why_not_buildkit()
        if why_not and (needs_buildkit or self._choice is BuilderChoice.BUILDKIT):
            what = f"{needs_buildkit} needs BuildKit" if needs_buildkit else "images are built with BuildKit"
            raise FailedPrecondition(f"{what}, but this agent cannot: {why_not}", reason="NO_BUILDKIT")
        return self._engine.builder(buildkit=not why_not)

    async def _why_not_buildkit(self) -> str:
        if self._choice is BuilderChoice.CLASSIC:
            return "its TOWLINE_AGENT_DOCKERFILE_BUILDER is classic"
        if self._network not in _NETWORKS:
            return f"BuildKit cannot use the network that TOWLINE_AGENT_BUILD_NETWORK names, {self._network}"
        return "" if await self._engine.has_buildkit() else "its engine has none"
