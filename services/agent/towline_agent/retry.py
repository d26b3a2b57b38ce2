"""Trying again what failed because a service was away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import random
from typing import TypeVar

from towline.errors import DeadlineExceeded, Unavailable
from towline_agent.core.backoff import Backoff

__all__ = ["retrying"]

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


async def retrying(
    attempt: Callable[[], Awaitable[_Result]],
    *,
    what: str,
    patience_s: float | None,
    waiting: Callable[[str], None] | None = None,
) -> _Result:
    """Call until it works, an error other than Unavailable or DeadlineExceeded comes, or patience ends.

    Args:
        attempt: Safe to repeat.
        what: What is tried, for the log, such as "uploading outputs".
        patience_s: Seconds after which the last error is raised; None: never.
        waiting: Told why before each wait.
    """
    loop = asyncio.get_running_loop()
    deadline = None if patience_s is None else loop.time() + patience_s
    backoff = Backoff(random)
    while True:
        try:
            return await attempt()
        except (Unavailable, DeadlineExceeded) as error:
            pause = backoff.failed()
            if deadline is not None and loop.time() + pause > deadline:
                raise
            if backoff.failures == 1:
                _log.warning("%s: %s; trying again", what, error)
            if waiting:
                waiting(error.message)
            await asyncio.sleep(pause)
