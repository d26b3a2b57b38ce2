"""Keeping the outputs of an attempt, through outages of the engine and the registry."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from towline.errors import TowlineError, Unavailable
from towline_agent import outputs
from towline_agent.attempts import Attempt
from towline_agent.core.containers import attempt_key
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.registry import Registry
from towline_agent.retry import retrying
from towline_agent.stopping import Stopped, unless

__all__ = ["Kept", "OutputKeeper"]

_log = logging.getLogger(__name__)
# How long a run that somebody wants to end goes on trying to reach a registry that is away.
_STOPPED_PATIENCE_S: Final = 30.0


@dataclass(frozen=True)
class Kept:
    """What became of the outputs."""

    artifact: str = ""
    """"artifacts/{artifact}/versions/{version}"; empty: nothing to keep, or not kept."""
    notes: list[str] = field(default_factory=list)
    """Lines for the run's log."""
    problem: str = ""
    """Why they are not kept; empty: they are."""


class OutputKeeper:
    """Brings outputs from ended containers to the registry.

    Args:
        engine: The engine.
        health: Tells when it is back.
        registry: Where outputs go.
        work: Folder for temporary files; needs room for the outputs.
    """

    def __init__(self, engine: Engine, health: EngineHealth, registry: Registry, work: Path) -> None:
        self._engine = engine
        self._health = health
        self._registry = registry
        self._work = work

    async def keep(self, attempt: Attempt, container: ContainerId) -> Kept:
        """Keep the outputs of an ended container; a registry that is away is waited for."""
        file = self._work / f"outputs-{attempt_key(attempt.spec.run, attempt.grant.epoch)}.tar"
        try:
            found = await self._collect(container, file)
            artifact = await self._upload(attempt, found)
        except (TowlineError, OSError) as error:
            message = error.message if isinstance(error, TowlineError) else str(error)
            _log.error("the outputs of %s are not kept: %s", attempt.spec.run, message)
            problem = f"The run's outputs could not be kept: {message}"
            return Kept(problem=problem, notes=[problem])
        finally:
            file.unlink(missing_ok=True)
        return Kept(artifact, found.skipped)

    async def _collect(self, container: ContainerId, file: Path) -> outputs.Outputs:
        while True:
            try:
                return await outputs.collect(self._engine, container, file)
            except Unavailable:
                await self._health.back()

    async def _upload(self, attempt: Attempt, found: outputs.Outputs) -> str:
        done = await unless(attempt.stopping, self._upload_within(attempt, found, None))
        if isinstance(done, Stopped):
            return await self._upload_within(attempt, found, _STOPPED_PATIENCE_S)
        return done

    async def _upload_within(self, attempt: Attempt, found: outputs.Outputs, patience_s: float | None) -> str:
        return await retrying(
            lambda: outputs.upload(self._registry, attempt.spec.run, attempt.grant.epoch, found),
            what=f"keeping the outputs of {attempt.spec.run}",
            patience_s=patience_s,
            waiting=lambda why: attempt.tell(f"keeping the outputs: {why}"),
        )
