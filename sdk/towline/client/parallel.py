"""Many pieces of work at a time, with a bound."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from towline.errors import TowlineError

__all__ = ["in_parallel"]

Item = TypeVar("Item")


async def in_parallel(
    items: Iterable[Item], work: Callable[[Item], Awaitable[object]], *, at_once: int = 8
) -> None:
    """Do `work` on each item, `at_once` of them at a time; the first error ends all of it.

    Raises:
        TowlineError: The first one that `work` raised; other errors come as an ExceptionGroup.
    """
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    failures: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except* TowlineError as failed:
        failures.extend(failed.exceptions)
    except* OSError as failed:
        failures.extend(failed.exceptions)
    if failures:
        raise failures[0]
