"""The hot way to PostgreSQL: the `.sql` files of this folder through asyncpg, without a layer between.

Where a call is one statement, it is one transaction and one round trip.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache
from typing import Any, Final, TypeAlias

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import TowlineError
from towline.service.postgres import SERVER_SETTINGS, host_of, outage, pool_exhausted
from towline_queue.storage.statements import written

__all__ = ["Database", "Row", "Transaction", "opening"]

Row = asyncpg.Record
"""One row of an answer, read by column: row["run"]."""

_Connection: TypeAlias = "asyncpg.Connection[Row]"

_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)")
_COMMENT: Final = re.compile(r"--.*")
_ACQUIRE: Final = timedelta(seconds=30)
_CLOSE: Final = timedelta(seconds=5)
_LARGEST_PARAMETERS: Final = 2**20

# One plan per statement: planning one anew takes as long as a small claim. It holds however much the tables
# grow, so it is as well that no connection reads a whole one (SERVER_SETTINGS).
_PLANS: Final = {"plan_cache_mode": "force_generic_plan"}


@cache
def _statement(name: str) -> tuple[str, tuple[str, ...]]:
    """Read `name`.sql with its `:parameters` numbered, and these in that order."""
    text = _COMMENT.sub("", written(name))
    names = tuple(dict.fromkeys(_PARAMETER.findall(text)))
    numbers = {parameter: f"${number}" for number, parameter in enumerate(names, 1)}
    return _PARAMETER.sub(lambda match: numbers[match[1]], text), names


class Transaction:
    """Statements that are committed together."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    async def rows(self, name: str, /, **parameters: Any) -> list[Row]:
        """Carry out `name`.sql and return its rows."""
        statement, names = _statement(name)
        return await self._connection.fetch(statement, *(parameters[parameter] for parameter in names))

    async def each(self, name: str, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Carry out `name`.sql once for each set of parameters, in order, without a round trip for each."""
        statement, names = _statement(name)
        values = [[given[parameter] for parameter in names] for given in parameters]
        await self._connection.executemany(statement, values)


class Database:
    """Connections for the statements that everything waits for; see `opening`.

    Every method raises Unavailable/DATABASE_UNAVAILABLE when PostgreSQL was lost before the commit was
    acknowledged, and ResourceExhausted/OVERLOADED when all connections were in use for half a minute.
    """

    def __init__(self, connections: "_Connections", host: str) -> None:
        self._connections = connections
        self._host = host

    async def rows(self, name: str, /, **parameters: Any) -> list[Row]:
        """Carry out `name`.sql as a transaction of its own and return its rows after the commit."""
        async with self._connection() as connection:
            return await Transaction(connection).rows(name, **parameters)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Run a block as one transaction."""
        async with self._connection() as connection, connection.transaction():
            yield Transaction(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        with outage(self._host):
            connection = await self._connections.take()
            try:
                yield connection
            except (asyncpg.PostgresError, TowlineError):  # of the statement, or of what was read: it is over
                raise
            except BaseException:  # cut off in the middle, of an answer perhaps
                connection.terminate()
                raise
            finally:
                self._connections.give_back(connection)


class _Connections:
    """At most so many connections, the one used last first.

    A statement through a pool of asyncpg's costs this process three times as much as the statement alone.
    """

    def __init__(self, connect: Callable[[], Awaitable[_Connection]], size: int) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(size)
        self._idle: list[_Connection] = []

    async def take(self) -> _Connection:
        if self._places.locked():
            try:
                async with asyncio.timeout(_ACQUIRE.total_seconds()):
                    await self._places.acquire()
            except TimeoutError as error:
                raise pool_exhausted() from error
        else:
            await self._places.acquire()
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await self._connect()
        except BaseException:
            self._places.release()
            raise

    def give_back(self, connection: _Connection) -> None:
        if not connection.is_closed():
            self._idle.append(connection)
        self._places.release()

    async def close(self) -> None:
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.close(timeout=_CLOSE.total_seconds())
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):  # PostgreSQL went before
                connection.terminate()


@asynccontextmanager
async def opening(engine: AsyncEngine, *, size: int) -> AsyncIterator[Database]:
    """Give a database with at most `size` connections of its own, to where the engine connects."""
    _, arguments = engine.dialect.create_connect_args(engine.url)
    settings = SERVER_SETTINGS | _PLANS

    async def connect() -> _Connection:
        connection = await asyncpg.connect(**arguments, server_settings=settings)
        _widen(connection)
        return connection

    connections = _Connections(connect, size)
    try:
        yield Database(connections, host_of(engine))
    finally:
        await connections.close()


def _widen(connection: _Connection) -> None:
    """Let the parameters of a large statement be sent at once.

    What does not fit the buffer waits for its turn in the event loop, once for each 200 KB by default. The
    kernel widens those of TCP by itself, those of local sockets never.
    """
    transport: asyncio.Transport = connection._transport  # type: ignore[attr-defined]  # no other way
    sending = transport.get_extra_info("socket")
    if sending.family == socket.AF_UNIX:
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST_PARAMETERS)
