"""The way to PostgreSQL: engines, migrations, and answers kept for repeated requests.

"Unavailable" here means: the statement was not committed, or nobody knows; every
mutation carries a request_id or an epoch, so repeating it is safe.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

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
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from towline.errors import InvalidArgument, ResourceExhausted, Unavailable

__all__ = ["connecting", "idempotent", "migrate", "remembered", "requests_table", "transaction"]

_log = logging.getLogger(__name__)
_Response = TypeVar("_Response", bound=Message)

# SQLSTATEs in which the server, not the statement, is the trouble: connection exceptions, a session ended
# for idling, insufficient resources, operator intervention, and "cannot connect now".
_OUTAGE: Final = ("08", "25P03", "53", "57")

# No transaction waits for anything but the database, so one that idles belongs to a process that is frozen
# or cut off, and must not hold its locks against the other replicas.
_LONGEST_IDLE: Final = timedelta(seconds=10)


def _engine(url: str, *, pool_size: int) -> AsyncEngine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidArgument.field(
            "DATABASE_URL", "this is no URL; write postgresql://user@host/database"
        ) from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidArgument.field("DATABASE_URL", "only PostgreSQL is taken; write postgresql://…")
    parsed = parsed.set(drivername="postgresql+asyncpg")
    idle = f"{_LONGEST_IDLE.total_seconds():g}s"
    return create_async_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=False,
        connect_args={"server_settings": {"idle_in_transaction_session_timeout": idle}},
    )


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
                f"PostgreSQL ({_host(engine)}) refuses: {_first_line(error)}; check DATABASE_URL",
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
    try:
        async with engine.begin() as connection:
            yield connection
    except PoolTimeout as error:
        raise ResourceExhausted(
            "all connections to PostgreSQL are in use; come back later, or raise DATABASE_POOL_SIZE",
            reason="OVERLOADED",
            retry_after=timedelta(seconds=1),
        ) from error
    except (DBAPIError, OSError) as error:
        if not _is_outage(error):
            raise
        raise Unavailable(
            f"PostgreSQL ({_host(engine)}) cannot be reached: {_first_line(error)}; "
            "start it or check DATABASE_URL",
            reason="DATABASE_UNAVAILABLE",
        ) from error


def _host(engine: AsyncEngine) -> str:
    return str(engine.url.host or engine.url.query.get("host", "local socket"))


def _is_outage(error: Exception) -> bool:
    if not isinstance(error, DBAPIError):
        return True
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return True
    return str(getattr(error.orig, "sqlstate", None) or "").startswith(_OUTAGE)


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
    request_id = _request_id(request)
    if not request_id:
        async with transaction(engine) as connection:
            return await apply(connection)
    method = request.DESCRIPTOR.full_name
    key = _uuid(request_id)
    digest = _digest(request)
    async with transaction(engine) as connection:
        # Two repetitions at once: the second waits here until the first has committed.
        await connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": str(key)}
        )
        answer = await _answer(connection, requests, request, response_type)
        if answer is None:
            answer = await apply(connection)
            await connection.execute(
                insert(requests).values(
                    method=method,
                    request_id=key,
                    digest=digest,
                    response=answer.SerializeToString(deterministic=True),
                )
            )
    return answer


async def remembered(
    engine: AsyncEngine, requests: Table, request: Message, response_type: type[_Response]
) -> _Response | None:
    """Return the answer that `idempotent` kept for this request; None if it has not been carried out.

    For methods that ask another service first: a repetition gets its answer without that service.

    Raises:
        InvalidArgument: See `idempotent`.
    """
    if not _request_id(request):
        return None
    async with transaction(engine) as connection:
        return await _answer(connection, requests, request, response_type)


async def _answer(
    connection: AsyncConnection, requests: Table, request: Message, response_type: type[_Response]
) -> _Response | None:
    request_id = _request_id(request)
    found = (
        await connection.execute(
            select(requests.c.digest, requests.c.response).where(
                requests.c.method == request.DESCRIPTOR.full_name, requests.c.request_id == _uuid(request_id)
            )
        )
    ).one_or_none()
    if found is None:
        return None
    if found.digest != _digest(request):
        raise InvalidArgument(
            f"request_id: {request_id} came before with another request; take a new UUID for each",
            reason="REQUEST_ID_REUSED",
            metadata={"field": "request_id"},
        )
    return response_type.FromString(found.response)


def _request_id(request: Message) -> str:
    request_id: str = getattr(request, "request_id")  # noqa: B009 - not on Message itself
    return request_id


def _digest(request: Message) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _uuid(request_id: str) -> UUID:
    try:
        return UUID(request_id)
    except ValueError:
        raise InvalidArgument.field("request_id", f"{request_id!r} is not a UUID") from None
