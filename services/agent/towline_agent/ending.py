"""Ending an attempt's container: the stop file, the stop signal, SIGKILL, removal."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from random import random
from typing import Final, TypeVar

from towline.errors import NotFound, TowlineError, Unavailable
from towline_agent import tars
from towline_agent.attempts import Attempt
from towline_agent.core.backoff import Backoff
from towline_agent.core.containers import STOP_FILE, container_name, stop_signal
from towline_agent.core.stops import Signalled, Stop, StopReason, describe
from towline_agent.deadlines import boottime
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import ContainerId, ContainerState, Engine
from towline_agent.journal import Journal

__all__ = ["Ending"]

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
# Neither a disk nor an engine that is slow keeps a signal waiting for longer.
_PATIENCE_S: Final = 2.0


@dataclass(frozen=True)
class Ending:
    """Ends containers.

    Args:
        engine: Where they are.
        health: Tells when it is back.
        journal: Is told before a signal is sent.
    """

    engine: Engine
    health: EngineHealth
    journal: Journal

    async def when_ordered(self, attempt: Attempt, container: ContainerId) -> None:
        """Stop a container each time an order comes; runs until cancelled.

        The signal is sent once; a later, stronger order replaces the stop file and no more.
        """
        signalled = False
        while True:
            await attempt.ordered.wait()
            stop = attempt.lease.stop
            assert stop is not None  # noqa: S101 - set before the order is given
            await self.health.wait_ready()
            await self._note(attempt, stop)
            # Each is reported first: an end that is seen before the engine has answered is the stop's doing.
            attempt.announced()
            await self._put_stop_file(attempt, container, stop)
            attempt.signalled()
            if not signalled:
                await self.reach(lambda: self.engine.kill(container, stop_signal(attempt.spec)))
                signalled = True
            attempt.tell(describe(stop.reason))

    async def kill_when_due(self, attempt: Attempt, container: ContainerId) -> None:
        """Send SIGKILL when it is due; runs until then."""
        await attempt.killing.wait()
        await self.reach(lambda: self.engine.kill(container, "SIGKILL"))

    async def remove(self, attempt: Attempt, grace: timedelta | None = None) -> None:
        """Remove an attempt's container, however it is; with `grace` the stop signal comes first.

        Returns when it does not run any more, however long that takes: another may follow. One that has
        ended and cannot be removed stays until the next sweep.
        """
        name = container_name(attempt.spec.run, attempt.grant.epoch)
        backoff = Backoff(random)
        while True:
            try:
                if grace:
                    await self._let_end(attempt, name, grace)
                await self.reach(lambda: self.engine.remove(name))
                return
            except TowlineError as error:
                runs = await self._runs(name)
                _log.warning("container %s %s: %s", name, "still runs" if runs else "stays for now", error)
                if not runs:
                    return
            grace = None
            await asyncio.sleep(backoff.failed())

    async def _let_end(self, attempt: Attempt, name: str, grace: timedelta) -> None:
        """Give a container that runs the stop signal, and time."""
        found = await self.reach(lambda: self.engine.inspect(name))
        if found is None or found.state is not ContainerState.RUNNING:
            return
        await self._put_stop_file(attempt, found.id, Stop(StopReason.EXPIRED, grace))
        await self.reach(lambda: self.engine.kill(found.id, stop_signal(attempt.spec)))
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self.reach(lambda: self.engine.wait(found.id))
        except (TimeoutError, NotFound):
            return

    async def _runs(self, name: str) -> bool:
        """Tell whether a container runs, as far as the engine can be asked."""
        try:
            found = await self.reach(lambda: self.engine.inspect(name))
        except TowlineError:
            return True
        return found is not None and found.state is ContainerState.RUNNING

    async def reach(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Ask the engine something that is safe to ask again, for as long as it takes."""
        while True:
            try:
                return await ask()
            except Unavailable:
                await self.health.back()

    async def _note(self, attempt: Attempt, stop: Stop) -> None:
        """Say in the journal why the container ends, for an agent that would find it ended."""
        signalled = Signalled(stop.reason, attempt.lease.signalled_at or boottime(), stop.grace)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await asyncio.to_thread(self.journal.stopping, attempt.grant, signalled)
        except (OSError, TimeoutError) as error:
            _log.warning("%s is stopped without a note of it: %s", attempt.spec.run, error)

    async def _put_stop_file(self, attempt: Attempt, container: ContainerId, stop: Stop) -> None:
        """Tell the program why, as far as that is possible."""
        folder, _, name = STOP_FILE.rpartition("/")
        content = {
            "reason": stop.reason.word,
            "epoch": attempt.grant.epoch,
            "grace_seconds": stop.grace.total_seconds(),
        }
        entry = tars.Entry(name, json.dumps(content).encode())
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self.engine.put_archive(container, folder, tars.stream([entry]))
        except (TowlineError, TimeoutError) as error:
            _log.warning("%s is stopped without a stop file: %s", attempt.spec.run, error)
