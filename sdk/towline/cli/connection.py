"""How commands reach the services."""

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from towline.client import AsyncClient, Client

__all__ = ["connect", "connected"]

T = TypeVar("T")


def connect() -> "Client":
    """Give a client of the services that the environment or the data folder names; close it.

    Raises:
        Unavailable: Neither names any.
    """
    from towline.client import Client

    return Client()


def connected(work: "Callable[[AsyncClient], Awaitable[T]]") -> T:
    """Run work that does several things at once, with a client, and give its result.

    Raises:
        Exception: What the work raised; of several things that failed at once the first.
    """
    import asyncio

    from towline.client import AsyncClient

    async def run() -> T:
        async with AsyncClient() as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
