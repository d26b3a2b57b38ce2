"""Whose doing a container's end was, where it ended as one does that is told to."""

import asyncio
import logging
from typing import Final

from towline.errors import TowlineError, Unavailable
from towline_agent.core.failures import EndedBy, ended_by, may_be_stopped, may_be_told
from towline_agent.engine.port import Container, Engine

__all__ = ["blame"]

_log = logging.getLogger(__name__)
# An engine that shuts down stops its containers first, or stops to answer first: soon it does both.
_LOOK_S: Final = 2.0
_ASK_EVERY_S: Final = 0.2


async def blame(engine: Engine, ended: Container, *, was_away: bool) -> EndedBy:
    """Find out who ended a container that nobody here has stopped.

    It takes no time for one that succeeded, a question to the engine for one that failed, and up to 2 s for
    one that ended as a signal ends a program.

    Args:
        engine: The engine.
        ended: The container.
        was_away: Whether the engine failed to answer while the container was attended.
    """
    if ended.exit is None or not may_be_told(ended.exit):
        return EndedBy.PROGRAM
    try:
        signals = await engine.signals(ended)
    except Unavailable:
        return ended_by(ended.exit, None, was_away=was_away, leaves=True)
    except TowlineError as error:
        _log.warning("the engine does not tell who ended container %s: %s", ended.id[:12], error)
        signals = None
    leaves = may_be_stopped(ended.exit, signals) and await _leaves(engine)
    return ended_by(ended.exit, signals, was_away=was_away, leaves=leaves)


async def _leaves(engine: Engine) -> bool:
    """Tell whether the engine goes away just now."""
    try:
        async with asyncio.timeout(_LOOK_S):
            while True:
                await engine.ping()
                await asyncio.sleep(_ASK_EVERY_S)
    except TimeoutError:
        return False
    except TowlineError:
        return True
