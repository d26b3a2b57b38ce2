"""Keeping what an attempt has left, through outages of the engine and the registry."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from towline.errors import InvalidArgument, TowlineError, Unavailable
from towline.v1 import artifacts_pb2
from towline_agent import outputs, results
from towline_agent.attempts import Attempt
from towline_agent.core.containers import ARTIFACTS, OUTPUTS, RESULTS, attempt_key
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import ContainerId, Engine
from towline_agent.registry import Registry
from towline_agent.retry import retrying
from towline_agent.stopping import Stopped, unless

__all__ = ["Kept", "OutputKeeper"]

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
# How long a run that somebody wants to end goes on trying to reach a registry that is away.
_STOPPED_PATIENCE_S: Final = 30.0
# As the proto says of AttemptResult.
_MOST_LOGGED: Final = 64
_FOLDERS: Final = (RESULTS, OUTPUTS, ARTIFACTS)


@dataclass(frozen=True)
class Kept:
    """What became of outputs, summary and logged artifacts."""

    artifact: str = ""
    """"artifacts/{artifact}/versions/{version}"; empty: nothing to keep, or not kept."""
    summary: str = ""
    """A JSON object; empty: none."""
    logged: list[str] = field(default_factory=list)
    """"artifacts/{artifact}/versions/{version}" each."""
    notes: list[str] = field(default_factory=list)
    """Lines for the run's log."""
    problem: str = ""
    """Why outputs or logged artifacts are not kept; empty: they are."""


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
        """Keep what an ended container has left; a registry that is away is waited for."""
        kept = Kept()
        file = self._work / f"outputs-{attempt_key(attempt.spec.run, attempt.grant.epoch)}.tar"
        try:
            folders = await self._ask(lambda: outputs.written(self._engine, container, _FOLDERS))
            if RESULTS in folders:
                summary = await self._ask(lambda: results.read_summary(self._engine, container))
                kept = replace(kept, summary=summary.text, notes=[summary.problem] if summary.problem else [])
            if OUTPUTS in folders:
                found = await self._ask(lambda: outputs.collect(self._engine, container, file))
                request = outputs.outputs_request(attempt.spec, attempt.grant.epoch)
                artifact = await self._upload(attempt, request, found)
                kept = replace(kept, artifact=artifact, notes=[*kept.notes, *found.skipped])
            # The archive of the outputs is not needed any more: the disk holds one at a time.
            if ARTIFACTS in folders:
                logged = await self._ask(lambda: results.collect_logged(self._engine, container, file))
                names, notes = await self._log_all(attempt, logged)
                kept = replace(kept, logged=names, notes=[*kept.notes, *notes])
            return kept
        except (TowlineError, OSError) as error:
            message = error.message if isinstance(error, TowlineError) else str(error)
            _log.error("the outputs of %s are not kept: %s", attempt.spec.run, message)
            problem = f"The run's outputs could not be kept: {message}"
            return replace(kept, problem=problem, notes=[*kept.notes, problem])
        finally:
            file.unlink(missing_ok=True)

    async def _log_all(self, attempt: Attempt, logged: list[results.Logged]) -> tuple[list[str], list[str]]:
        """Make versions of what was logged; return their names, and lines about what is not kept."""
        names: dict[str, None] = {}
        notes: list[str] = []
        for each in logged:
            notes += each.found.skipped
            try:
                request = each.request(attempt.spec, attempt.grant.epoch)
                if name := await self._upload(attempt, request, each.found):
                    names[name] = None
                else:
                    notes.append(f"the artifact {request.artifact} is not kept: it has no files")
            except (ValueError, InvalidArgument) as error:
                notes.append(f"the logged artifact {each.number} is not kept: {error}")
        if len(names) > _MOST_LOGGED:
            notes.append(f"{len(names)} artifacts were logged; the run names the last {_MOST_LOGGED}")
        return list(names)[-_MOST_LOGGED:], notes

    async def _ask(self, engine: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Ask the engine, for as long as it takes."""
        while True:
            try:
                return await engine()
            except Unavailable:
                await self._health.back()

    async def _upload(
        self,
        attempt: Attempt,
        request: artifacts_pb2.CreateArtifactVersionRequest,
        found: outputs.FileList,
    ) -> str:
        async def within(patience_s: float | None) -> str:
            return await retrying(
                lambda: outputs.upload(self._registry, request, found),
                what=f"keeping the outputs of {attempt.spec.run}",
                patience_s=patience_s,
                waiting=lambda why: attempt.tell(f"keeping the outputs: {why}"),
            )

        done = await unless(attempt.stopping, within(None))
        return await within(_STOPPED_PATIENCE_S) if isinstance(done, Stopped) else done
