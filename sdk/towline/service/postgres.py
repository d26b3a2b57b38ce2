"""The way to PostgreSQL: engines, migrations, and answers kept for repeated requests.

"Unavailable" here means: the statement was not committed, or nobody knows; every
mutation carries a request_id or an epoch, so repeating it is safe.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
from alembic import command
from alembic.config import Config
from google.protobuf.message import Message
from sqlalchemy import (
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine.interfaces import AdaptedConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from towline.errors import InvalidArgument, ResourceExhausted, Unavailable

__all__ = [
    "SERVER_SETTINGS",
    "RequestKey",
    "connecting",
    "host_of",
    "idempotent",
    "migrate",
    "outage",
    "pool_exhausted",
    "remembered",
    "request_key",
    "requests_table",
    "transaction",
]

_log = logging.getLogger(__name__)
_Response = TypeVar("_Response", bound=Message)

# SQLSTATEs in which the server, not the statement, is the trouble: connection exceptions, a session ended
# for idling, insufficient resources, operator intervention, and "cannot connect now".
_OUTAGE: Final = ("08", "25P03", "53", "57")

# No transaction waits for anything but the database, so one that idles belongs to a process that is frozen
# or cut off, and must not hold its locks against the other replicas.
_LONGEST_IDLE: Final = timedelta(seconds=10)

SERVER_SETTINGS: Final = {
    "idle_in_transaction_session_timeout": f"{_LONGEST_IDLE.total_seconds():g}s",
    # Compiling a plan takes longer than any statement of ours.
    "jit": "off",
    # A table that was empty when it was analyzed may have millions of rows in a minute, and is never to be
    # read from end to end then.
    "enable_seqscan": "off",
    # Starting processes takes longer than most statements, and takes the cores from all others.
    "max_parallel_workers_per_gather": "0",
}
"""What every connection of a service sets."""


def _engine(url: str, *, pool_size: int) -> AsyncEngine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidArgument.field(
            "DATABASE_URL", "this is no URL; write postgresql://user@host/database"
        ) from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidArgument.field("DATABASE_URL", "only PostgreSQL is taken; write postgresql://…")
    engine = create_async_engine(
        parsed.set(drivername="postgresql+asyncpg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=False,
        connect_args={"server_settings": dict(SERVER_SETTINGS)},
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(connection: AdaptedConnection, *_: object) -> None:
    """Have the pool give another connection than one that PostgreSQL has closed: it may have restarted."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


@asynccontextmanager
async def connecting(url: str, *, pool_size: int = 8) -> AsyncIterator[AsyncEngine]:
    """Give an engine for a URL such as "postgresql://user@host/database"; close it at the end.

    Raises:
        InvalidArgument: The URL is wrong; reason INVALID_FIELD.
        Unavailable: PostgreSQL cannot be reached or lets nobody in; reason DATABASE_UNAVAILABLE.
    """
    engine = _engine(url, pool_size=pool_size)
    try:
        try:
            async with transaction(engine) as connection:
                await connection.execute(text("SELECT 1"))
        except DBAPIError as error:  # no such database or role, a wrong password
            raise Unavailable(
                f"PostgreSQL ({host_of(engine)}) refuses: {_first_line(error)}; check DATABASE_URL",
                reason="DATABASE_UNAVAILABLE",
            ) from error
        except TypeError as error:  # asyncpg takes the URL's query as arguments
            raise InvalidArgument.field("DATABASE_URL", f"its query is wrong: {error}") from error
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Run a block as one transaction.

    Raises:
        Unavailable: PostgreSQL was lost before the commit was acknowledged; reason DATABASE_UNAVAILABLE.
        ResourceExhausted: All connections were in use for half a minute; reason OVERLOADED.
    """
    with outage(host_of(engine)):
        try:
            async with engine.begin() as connection:
                yield connection
        except PoolTimeout as error:
            raise pool_exhausted() from error


@contextmanager
def outage(host: str) -> Iterator[None]:
    """Raise Unavailable/DATABASE_UNAVAILABLE where the block fails because PostgreSQL was lost.

    Args:
        host: Where it is, for people.
    """
    try:
        yield
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        if not _is_outage(error):
            raise
        raise Unavailable(
            f"PostgreSQL ({host}) cannot be reached: {_first_line(error)}; start it or check DATABASE_URL",
            reason="DATABASE_UNAVAILABLE",
        ) from error


def pool_exhausted() -> ResourceExhausted:
    """Make the error for a pool that had no connection to give for half a minute."""
    return ResourceExhausted(
        "all connections to PostgreSQL are in use; come back later, or raise DATABASE_POOL_SIZE",
        reason="OVERLOADED",
        retry_after=timedelta(seconds=1),
    )


def host_of(engine: AsyncEngine) -> str:
    """Say where an engine connects, for people."""
    return str(engine.url.host or engine.url.query.get("host", "local socket"))


def _is_outage(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
            return True
        return str(getattr(error.orig, "sqlstate", None) or "").startswith(_OUTAGE)
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(_OUTAGE)
    return True


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


async def migrate(engine: AsyncEngine, *, schema: str, scripts: str) -> None:
    """Bring a schema to the newest version; replicas that start together take turns.

    Args:
        engine: The database.
        schema: Schema that the service owns; it is made if it is not there.
        scripts: Where the migrations are, as "package:folder".
    """
    async with transaction(engine) as connection:
        await connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtext(:key))"), {"key": f"towline.{schema}"}
        )
        await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
        await connection.run_sync(_upgrade, schema, scripts)


def _upgrade(connection: Any, schema: str, scripts: str) -> None:
    config = Config()
    config.set_main_option("script_location", scripts)
    config.set_main_option("path_separator", "os")
    config.attributes |= {"connection": connection, "schema": schema}
    command.upgrade(config, "head")


def requests_table(metadata: MetaData) -> Table:
    """Define the table of answers to mutations, kept so that a repeated request gets the first answer."""
    return Table(
        "requests",
        metadata,
        Column("method", Text, primary_key=True),
        Column("request_id", Uuid, primary_key=True),
        Column("digest", LargeBinary, nullable=False, comment="sha256 of the request"),
        Column("response", LargeBinary, nullable=False),
        Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )


class RequestKey(NamedTuple):
    """What tells a repetition of a request, and one that only has its id.

    Attributes:
        method: Full name of the request's message.
        id: Its request_id.
        digest: Sha256 of the whole request.
    """

    method: str
    id: UUID
    digest: bytes


def request_key(request: Message) -> RequestKey | None:
    """Return the key of a request that carries `request_id`; None where that is empty.

    Raises:
        InvalidArgument: The id is no UUID.
    """
    request_id: str = getattr(request, "request_id")  # noqa: B009 - not on Message itself
    if not request_id:
        return None
    return RequestKey(request.DESCRIPTOR.full_name, _uuid(request_id), _digest(request))


async def idempotent(
    engine: AsyncEngine,
    requests: Table,
    request: Message,
    response_type: type[_Response],
    apply: Callable[[AsyncConnection], Awaitable[_Response]],
) -> _Response:
    """Apply a mutation once, however often its request comes; the answer commits with the change.

    Args:
        engine: The database.
        requests: The service's table of answers.
        request: Carries `request_id`; an empty one is not remembered.
        response_type: What the method answers.
        apply: Makes the change in the transaction it is given, and the answer.

    Raises:
        InvalidArgument: The id is no UUID, or came before with another body (REQUEST_ID_REUSED).
    """
    key = request_key(request)
    if key is None:
        async with transaction(engine) as connection:
            return await apply(connection)
    async with transaction(engine) as connection:
        # Two repetitions at once: the second waits here until the first has committed.
        await connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": str(key.id)}
        )
        answer = await _answer(connection, requests, key, response_type)
        if answer is None:
            answer = await apply(connection)
            await connection.execute(
                insert(requests).values(
                    method=key.method,
                    request_id=key.id,
                    digest=key.digest,
                    response=answer.SerializeToString(deterministic=True),
                )
            )
    return answer


async def remembered(
    engine: AsyncEngine, requests: Table, key: RequestKey, response_type: type[_Response]
) -> _Response | None:
    """Return the answer that was kept for a request; None if it has not been carried out.

    Raises:
        InvalidArgument: Its id came before with another body (REQUEST_ID_REUSED).
    """
    async with transaction(engine) as connection:
        return await _answer(connection, requests, key, response_type)


async def _answer(
    connection: AsyncConnection, requests: Table, key: RequestKey, response_type: type[_Response]
) -> _Response | None:
    found = (
        await connection.execute(
            select(requests.c.digest, requests.c.response).where(
                requests.c.method == key.method, requests.c.request_id == key.id
            )
        )
    ).one_or_none()
    if found is None:
        return None
    if found.digest != key.digest:
        raise InvalidArgument(
            f"request_id: {key.id} came before with another request; take a new UUID for each",
            reason="REQUEST_ID_REUSED",
            metadata={"field": "request_id"},
        )
    return response_type.FromString(found.response)


def _digest(request: Message) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _uuid(request_id: str) -> UUID:
    try:
        return UUID(request_id)
    except ValueError:
        raise InvalidArgument.field("request_id", f"{request_id!r} is not a UUID") from None
