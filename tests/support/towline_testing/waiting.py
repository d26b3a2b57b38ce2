"""The only place where tests wait on real time: for a condition, with a bound."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_EVERY_S = 0.02


def eventually(condition: Callable[[], T], *, within: float = 10.0, every: float = _EVERY_S) -> T:
    """Return the first truthy value of `condition`; AssertionError after `within` seconds.

    A condition that starts a program is asked less often: `every` seconds.
    """
    deadline = time.monotonic() + within
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {_source(condition)}"
        time.sleep(every)


async def eventually_async(condition: Callable[[], Awaitable[T]], *, within: float = 10.0) -> T:
    """Return the first truthy value that `condition` yields; AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        if value := await condition():
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {_source(condition)}"
        await asyncio.sleep(_EVERY_S)


def _source(condition: Callable[..., object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except OSError:
        return repr(condition)
