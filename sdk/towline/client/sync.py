"""The client for people: the methods of `AsyncClient`, each made into one that waits.

The event loop runs in a thread of its own. Each line below makes one method or iterator, with the types of
the asynchronous one; a test holds that none is missing.
"""

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, Self, TypeAlias, TypeVar

from towline.client.aio import AsyncClient
from towline.client.artifacts import Artifacts
from towline.client.blobs import Blobs
from towline.client.fleet import Fleet
from towline.client.jobs import Jobs
from towline.client.logs import Logs
from towline.client.queues import Queues
from towline.client.runs import Runs
from towline.runtime.endpoints import Endpoints

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Client", "Series"]

# What an interrupted call gets to end in an orderly way.
CANCEL_GRACE_S: Final = 5.0

Group = TypeVar("Group")
# Methods that a group has from a base of its class take it as well.
Group_co = TypeVar("Group_co", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="towline-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    @property
    def alive(self) -> bool:
        """Whether it runs: not after `stop`, and not in a forked child, which has one thread only."""
        return self._thread.is_alive()

    def result_of(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; where the caller is interrupted (Ctrl-C), it is cancelled first."""
        if not self.alive:
            work.close()
            raise RuntimeError("this Client is closed, or was made before the process forked")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done() and future.cancel():
                self._settle()
            raise

    def _settle(self) -> None:
        """Wait until what was just cancelled has been told so."""
        turn = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop)
        turn.result(CANCEL_GRACE_S)

    def stop(self) -> None:
        """End the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CANCEL_GRACE_S)


class _Synced(Generic[Group_co]):
    """One group of methods of the asynchronous client, and the loop they run in."""

    def __init__(self, group: Group_co, loop: _Loop) -> None:
        self._group = group
        self._loop = loop


def _call(
    method: Callable[Concatenate[Group, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Synced[Group], P], T]:
    """Make a method that waits for the result of an asynchronous one."""

    @wraps(method)
    def call(self: _Synced[Group], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.result_of(method(self._group, *args, **kwargs))

    return call


def _walk(
    method: Callable[Concatenate[Group, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[_Synced[Group], P], Generator[T, None, None]]:
    """Make an iterator of an asynchronous one; leaving it early ends what it reads from."""

    @wraps(method)
    def walk(self: _Synced[Group], /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        items = method(self._group, *args, **kwargs)
        try:
            while True:
                try:
                    yield self._loop.result_of(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if self._loop.alive:  # else the loop's end has closed it
                self._loop.result_of(items.aclose())

    return walk


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


class _Jobs(_Synced[Jobs]):
    create_version = _call(Jobs.create_version)
    get = _call(Jobs.get)
    list = _walk(Jobs.list)
    versions = _walk(Jobs.versions)
    set_alias = _call(Jobs.set_alias)
    delete_alias = _call(Jobs.delete_alias)
    delete_version = _call(Jobs.delete_version)
    set_retention = _call(Jobs.set_retention)


class _Blobs(_Synced[Blobs]):
    missing = _call(Blobs.missing)
    upload = _call(Blobs.upload)
    send = _call(Blobs.send)
    download = _call(Blobs.download)


class _Artifacts(_Synced[Artifacts]):
    upload = _call(Artifacts.upload)
    get = _call(Artifacts.get)
    list = _walk(Artifacts.list)
    versions = _walk(Artifacts.versions)
    lineage = _call(Artifacts.lineage)
    record_uses = _call(Artifacts.record_uses)
    set_alias = _call(Artifacts.set_alias)
    delete_alias = _call(Artifacts.delete_alias)
    delete_version = _call(Artifacts.delete_version)
    set_retention = _call(Artifacts.set_retention)
    download = _call(Artifacts.download)


# What has versions, with aliases and a retention.
Series: TypeAlias = _Jobs | _Artifacts


class _Queues(_Synced[Queues]):
    create = _call(Queues.create)
    get = _call(Queues.get)
    list = _walk(Queues.list)
    update = _call(Queues.update)
    delete = _call(Queues.delete)
    pause = _call(Queues.pause)
    resume = _call(Queues.resume)


class _Runs(_Synced[Runs]):
    submit = _call(Runs.submit)
    submit_many = _call(Runs.submit_many)
    get = _call(Runs.get)
    list = _walk(Runs.list)
    watch = _walk(Runs.watch)
    wait = _call(Runs.wait)
    cancel = _call(Runs.cancel)
    preempt = _call(Runs.preempt)
    retry = _call(Runs.retry)
    outputs = _call(Runs.outputs)


class _Logs(_Synced[Logs]):
    tail = _walk(Logs.tail)


class _Fleet(_Synced[Fleet]):
    list = _walk(Fleet.list)
    get = _call(Fleet.get)
    drain = _call(Fleet.drain)


class Client:
    """Towline's services, for programs without asyncio. Close it, or use `with`.

    Args:
        endpoints: Where the services are; found with `Endpoints.discover()` where none are given.

    Raises:
        Unavailable: No endpoints are given and none are found; reason NO_ENDPOINTS.
    """

    def __init__(self, endpoints: Endpoints | None = None) -> None:
        self._client = AsyncClient(endpoints)
        self._loop = loop = _Loop()
        self.endpoints = self._client.endpoints
        self.jobs = _Jobs(self._client.jobs, loop)
        self.blobs = _Blobs(self._client.blobs, loop)
        self.artifacts = _Artifacts(self._client.artifacts, loop)
        self.queues = _Queues(self._client.queues, loop)
        self.runs = _Runs(self._client.runs, loop)
        self.logs = _Logs(self._client.logs, loop)
        self.fleet = _Fleet(self._client.fleet, loop)
        # Also when nobody closes it: a loop that is cut off by the interpreter's end prints tracebacks.
        self._closing = weakref.finalize(self, _close, self._client, loop)

    def close(self) -> None:
        """End the connections; a second call does nothing."""
        self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close(client: AsyncClient, loop: _Loop) -> None:
    if loop.alive:
        loop.result_of(client.close())
        loop.stop()
