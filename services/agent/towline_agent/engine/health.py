"""Whether the engine answers."""

import asyncio
import logging
from collections.abc import Callable
from random import random
from typing import Final

from towline.errors import TowlineError
from towline_agent.core.backoff import Backoff
from towline_agent.engine.port import Engine

__all__ = ["EngineHealth"]

_log = logging.getLogger(__name__)
_EVERY_S: Final = 5.0
_LEAST_PAUSE_S: Final = 0.1


class EngineHealth:
    """Asks the engine again and again; `run` must run.

    Args:
        engine: The engine.
        changed: Called when it has come or gone.
    """

    def __init__(self, engine: Engine, changed: Callable[[], None]) -> None:
        self._engine = engine
        self._changed = changed
        self._up = asyncio.Event()
        self._doubt = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Tell whether it answered when asked last."""
        return self._up.is_set()

    async def back(self) -> None:
        """Wait until it answers, asking anew: the caller has seen it fail."""
        self._up.clear()
        self._changed()
        # An engine that answers this and fails at the rest must not be asked without a pause.
        await asyncio.sleep(_LEAST_PAUSE_S * (1 + random()))  # noqa: S311 - jitter
        self._doubt.set()
        await self._up.wait()

    async def wait_ready(self) -> None:
        """Wait until it has answered."""
        await self._up.wait()

    async def run(self) -> None:
        """Watch until cancelled."""
        backoff = Backoff(random, base=0.5, cap=_EVERY_S)
        while True:
            self._doubt.clear()
            try:
                name = await self._engine.ping()
            except TowlineError as error:
                if backoff.failures == 0:
                    _log.warning(
                        "%s; no runs are taken until it does (start it: systemctl start docker)", error
                    )
                self._set(up=False)
                pause = backoff.failed()
            else:
                if not self._up.is_set():
                    _log.info("%s answers", name)
                self._set(up=True)
                backoff.succeeded()
                pause = _EVERY_S
            await self._pause(pause)

    def _set(self, *, up: bool) -> None:
        if up == self._up.is_set():
            return
        if up:
            self._up.set()
        else:
            self._up.clear()
        self._changed()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._doubt.wait()
        except TimeoutError:
            return
