"""Streams of requests with one response each, in order, that outlive their connections."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, Generic, TypeVar

import grpc

from towline.client import calls
from towline.client.calls import STREAM_TIMEOUT_S, UNARY_TIMEOUT_S, Service, pause_s
from towline.errors import DeadlineExceeded

__all__ = ["exchange"]

# Requests on their way; the service reads no more ahead than this either.
AHEAD: Final = 4

Request = TypeVar("Request")
Response = TypeVar("Response")


async def exchange(
    service: Service,
    method: grpc.aio.StreamStreamMultiCallable[Request, Response],
    requests: Iterable[Request],
    answered: Callable[[Response], None],
) -> None:
    """Send requests over one stream; where it breaks, those without a response are sent again over a new one.

    Args:
        service: Where to.
        method: The stub's method; answers each request in turn.
        requests: Each has a request_id, so that it is carried out once; taken as there is room for them.
        answered: Is given each response.

    Raises:
        TowlineError: What the service answered to the first request that it refuses; or Unavailable, or
            DeadlineExceeded where it does not answer one in time.
    """
    work = _Exchange(requests, answered)
    while not work.over:
        call = method(timeout=STREAM_TIMEOUT_S)
        try:
            await work.go_on(call)
        except grpc.aio.AioRpcError as failure:
            error = service.error(failure)
            pause = pause_s(error, work.backoff)
            if pause is None:
                raise error from None
            await asyncio.sleep(pause)
        finally:
            call.cancel()


class _Exchange(Generic[Request, Response]):
    """What is sent and what is answered, over all streams."""

    def __init__(self, requests: Iterable[Request], answered: Callable[[Response], None]) -> None:
        self._unsent = iter(requests)
        self._answered = answered
        self._waiting: deque[Request] = deque()
        self._room = asyncio.Semaphore(AHEAD)
        self._all_sent = False
        self._any_answer = asyncio.Event()
        """Set once this stream has brought an answer."""
        self.backoff = calls.Backoff()

    @property
    def over(self) -> bool:
        """Whether all is sent and answered."""
        return self._all_sent and not self._waiting

    async def go_on(self, call: grpc.aio.StreamStreamCall[Request, Response]) -> None:
        """Send and read over a stream until it breaks or all is done."""
        self._patience = asyncio.timeout(UNARY_TIMEOUT_S)
        self._any_answer.clear()
        failures: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send(call))
                await self._read(call)
                sending.cancel()
        except* Exception as failed:
            failures.extend(failed.exceptions)
        if failures:
            raise failures[0]

    async def _send(self, call: grpc.aio.StreamStreamCall[Request, Response]) -> None:
        try:
            for request in list(self._waiting):
                await call.write(request)
                # Where a stream ends under a write gRPC does not tell why: what may be the reason goes alone.
                await self._any_answer.wait()
            while True:
                await self._room.acquire()
                following = list(islice(self._unsent, 1))
                self._expect()  # only from now on, however long that took
                if not following:
                    break
                self._waiting.extend(following)
                await call.write(following[0])
            self._all_sent = True
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream has ended; who reads it is told why

    async def _read(self, call: grpc.aio.StreamStreamCall[Request, Response]) -> None:
        try:
            async with self._patience:
                async for response in call:
                    self._expect()
                    self._any_answer.set()
                    self._waiting.popleft()
                    self.backoff.reset()
                    self._room.release()
                    self._answered(response)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no answer within {UNARY_TIMEOUT_S:g} s; try again", reason="DEADLINE_EXCEEDED"
            ) from None

    def _expect(self) -> None:
        """Allow the next answer its time from now on."""
        self._patience.reschedule(asyncio.get_running_loop().time() + UNARY_TIMEOUT_S)
