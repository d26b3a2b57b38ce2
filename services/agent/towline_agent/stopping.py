"""Work that gives way to an order to stop, and work that must not."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Generic, TypeVar

__all__ = ["Stopped", "beside", "to_the_end", "unless"]

_Result = TypeVar("_Result")
_END_WITHIN_S: Final = 10.0


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


async def to_the_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return what `work` returns; a cancellation takes effect when it has ended, or after 10 s.

    For a request that the other side may carry out although it was broken off: what it makes then would be
    made after everything was cleaned up.
    """
    outcome: _Outcome[_Result] = _Outcome()
    async with asyncio.TaskGroup() as group:
        worker = group.create_task(outcome.of(work))
        try:
            await asyncio.shield(worker)
        except asyncio.CancelledError:
            await asyncio.wait([worker], timeout=_END_WITHIN_S)
            raise
    if outcome.error is not None:
        raise outcome.error
    return outcome.result  # type: ignore[return-value] # set, as there was no error


async def beside(companion: Coroutine[Any, Any, None], work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return what `work` returns; the companion runs meanwhile, and is cancelled then."""
    outcome: _Outcome[_Result] = _Outcome()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(companion)
        await outcome.of(work)
        task.cancel()
    if outcome.error is not None:
        raise outcome.error
    return outcome.result  # type: ignore[return-value] # set, as there was no error
