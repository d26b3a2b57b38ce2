"""How calls are made: deadlines, retries with jitter, errors as Towline's own."""

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Final, TypeVar

import grpc

from towline.errors import DeadlineExceeded, ResourceExhausted, TowlineError, Unavailable
from towline.rpc.channel import open_channel
from towline.rpc.status import to_error

__all__ = ["Backoff", "Service", "listed", "new_request_id", "pause_s", "reconnecting"]

UNARY_TIMEOUT_S: Final = 30.0
# A stream that is quiet for good is opened anew this often; whoever reads it does not notice.
STREAM_TIMEOUT_S: Final = 3600.0
# Failures in a row, without anything heard between them, after which a call gives up.
MAX_FAILURES: Final = 6
PAGE_SIZE: Final = 200

Request = TypeVar("Request")
Response = TypeVar("Response")
Item = TypeVar("Item")


class Backoff:
    """Pauses between attempts: they double from `first_s` to `most_s`, each cut at random by up to half."""

    def __init__(self, first_s: float = 0.1, most_s: float = 2.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self.failures = 0

    @property
    def exhausted(self) -> bool:
        """Whether so many attempts failed in a row that one more is not worth it."""
        return self.failures >= MAX_FAILURES

    def reset(self) -> None:
        """Note a success."""
        self.failures = 0

    def failed(self) -> float:
        """Note a failure and give the seconds to wait before the next attempt."""
        pause_s: float = min(self._first_s * 2**self.failures, self._most_s)
        self.failures += 1
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


class Service:
    """One service of Towline, as a client reaches it.

    Args:
        called: What it is called in messages for people, such as "the registry".
        address: "host:port" or "unix:PATH".
    """

    def __init__(self, called: str, address: str) -> None:
        self._peer = f"{called} at {address}"
        self._address = address
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The connection, opened in the event loop that asks first."""
        if self._channel is None:
            self._channel = open_channel(self._address)
        return self._channel

    async def close(self) -> None:
        """End the connection."""
        if self._channel is not None:
            await self._channel.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_s: float = UNARY_TIMEOUT_S,
        compression: grpc.Compression | None = None,
    ) -> Response:
        """Make one logical call: sent again, with the same request, while the service is unavailable.

        Args:
            method: The stub's method.
            request: Sent as it is each time, so its request_id makes the call happen once.
            timeout_s: Seconds for all attempts together.
            compression: Of the request, where it is large and repetitive.

        Raises:
            TowlineError: What the service answered, or Unavailable, or DeadlineExceeded.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        backoff = Backoff()
        while True:
            try:
                timeout = max(deadline - loop.time(), 0.001)
                return await method(request, timeout=timeout, compression=compression)
            except grpc.aio.AioRpcError as failure:
                error = self.error(failure)
            pause = pause_s(error, backoff)
            if pause is None or loop.time() + pause >= deadline:
                raise error
            await asyncio.sleep(pause)

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[Request, Response], request: Request
    ) -> AsyncGenerator[Response, None]:
        """Read one stream to its end; it is cancelled where the reader leaves before.

        Raises:
            TowlineError: What ended it; DeadlineExceeded after an hour.
        """
        call = method(request, timeout=STREAM_TIMEOUT_S)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as failure:
            raise self.error(failure) from None
        finally:
            call.cancel()

    def error(self, failure: grpc.aio.AioRpcError) -> TowlineError:
        """Translate what grpc raised."""
        return to_error(failure, peer=self._peer)


def pause_s(error: TowlineError, backoff: Backoff) -> float | None:
    """Give the seconds after which trying again may help; None: it will not."""
    if backoff.exhausted:
        return None
    if isinstance(error, Unavailable):
        return backoff.failed()
    if isinstance(error, ResourceExhausted) and error.retry_after is not None:
        return error.retry_after.total_seconds() + backoff.failed()
    return None


async def reconnecting(
    open_stream: Callable[[], AsyncGenerator[Response, None]],
) -> AsyncGenerator[Response, None]:
    """Read a stream to its end, and open it anew each time it breaks.

    A service that was never heard from is given up after some attempts, one that was heard is waited for.

    Args:
        open_stream: Opens the stream at the place the reader has reached.

    Raises:
        TowlineError: What the service answered, or Unavailable.
    """
    backoff, heard = Backoff(), False
    while True:
        try:
            async with aclosing(open_stream()) as stream:
                async for message in stream:
                    heard = True
                    backoff.reset()
                    yield message
            return
        except (Unavailable, DeadlineExceeded):
            if backoff.exhausted and not heard:
                raise
        await asyncio.sleep(backoff.failed())


async def listed(
    fetch: Callable[[str], Awaitable[tuple[Iterable[Item], str]]],
) -> AsyncGenerator[Item, None]:
    """Walk through the pages of a list.

    Args:
        fetch: Gets the page of a token, as its items and the token of the next page.
    """
    token = ""
    while True:
        items, token = await fetch(token)
        for item in items:
            yield item
        if not token:
            return


def new_request_id() -> str:
    """Make the idempotency key of one logical call."""
    return str(uuid.uuid4())
