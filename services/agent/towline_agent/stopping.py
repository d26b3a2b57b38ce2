"""Work that gives way to an order to stop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

__all__ = ["Stopped", "unless"]

_Result = TypeVar("_Result")


class Stopped:
    """What `unless` returns where the event came first; the work was cancelled and has cleaned up."""


class _Outcome(Generic[_Result]):
    """What a coroutine came to, kept so that its error is raised as it is and not in a group."""

    def __init__(self) -> None:
        self.result: _Result | None = None
        self.error: Exception | None = None

    async def of(self, work: Coroutine[Any, Any, _Result]) -> None:
        try:
            self.result = await work
        except Exception as error:
            self.error = error


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, _Result]) -> _Result | Stopped:
    """Return what `work` returns, or Stopped if the event is set first; errors of the work are raised."""
    outcome: _Outcome[_Result] = _Outcome()
    async with asyncio.TaskGroup() as group:
        worker = group.create_task(outcome.of(work))
        watcher = group.create_task(event.wait())
        await asyncio.wait([worker, watcher], return_when=asyncio.FIRST_COMPLETED)
        worker.cancel()
        watcher.cancel()
    if worker.cancelled():
        return Stopped()
    if outcome.error is not None:
        raise outcome.error
    return outcome.result  # type: ignore[return-value] # set, as there was no error
