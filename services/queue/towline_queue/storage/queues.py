"""Queues in PostgreSQL."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ARRAY, Row, Text, bindparam, delete, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound
from towline.names import QueueName
from towline.v1 import queues_pb2
from towline_queue.core.lease_policy import policy_of
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import queue_specs, queues

__all__ = [
    "Counts",
    "StoredQueue",
    "create",
    "delete_empty",
    "get",
    "not_found",
    "page",
    "set_paused",
    "spec_digest",
    "specs",
    "update_spec",
]

_COUNTS: Final = statement("queue_counts").bindparams(bindparam("queues", type_=ARRAY(Text)))


@dataclass(frozen=True)
class Counts:
    """Runs of a queue that have not ended."""

    waiting: int = 0
    active: int = 0


@dataclass(frozen=True)
class StoredQueue:
    """A queue as it is now.

    Attributes:
        name: "queues/{queue}".
        spec: The serialized QueueSpec.
        paused: Whether handing out is stopped.
        revision: Rises with each update of the spec.
        create_time: When it was made.
        counts: Its runs.
    """

    name: QueueName
    spec: bytes
    paused: bool
    revision: int
    create_time: datetime
    counts: Counts

    @property
    def etag(self) -> str:
        """Differs after each update, and from a former queue of the same name."""
        identity = f"{self.create_time.timestamp()}:{self.revision}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


def spec_digest(spec: bytes) -> bytes:
    """Return the key of a serialized QueueSpec in `queue_specs`."""
    return hashlib.sha256(spec).digest()


async def create(connection: AsyncConnection, name: QueueName, spec: bytes) -> StoredQueue:
    """Make a queue; AlreadyExists/QUEUE_EXISTS if there is one."""
    row = (
        await connection.execute(
            upsert(queues)
            .values(name=name, spec=spec, lost_after=_lost_after(spec))
            .on_conflict_do_nothing()
            .returning(queues)
        )
    ).one_or_none()
    if row is None:
        raise AlreadyExists(
            f"{name} exists; take another name, or update it", reason="QUEUE_EXISTS", metadata={"queue": name}
        )
    await _keep_spec(connection, spec)
    return _stored(row, Counts())


async def get(connection: AsyncConnection, name: QueueName) -> StoredQueue:
    """Return a queue; NotFound/QUEUE_NOT_FOUND if there is none."""
    row = (await connection.execute(select(queues).where(queues.c.name == name))).one_or_none()
    if row is None:
        raise not_found(name)
    return (await _with_counts(connection, [row]))[0]


async def page(connection: AsyncConnection, *, after: str | None, size: int) -> list[StoredQueue]:
    """Return up to `size` queues by name, those after `after`."""
    query = select(queues).order_by(queues.c.name).limit(size)
    if after is not None:
        query = query.where(queues.c.name > after)
    return await _with_counts(connection, (await connection.execute(query)).all())


async def specs(
    connection: AsyncConnection, *, after: str | None, size: int
) -> list[tuple[QueueName, bytes]]:
    """Return up to `size` queues by name, those after `after`, each with its serialized QueueSpec."""
    query = select(queues.c.name, queues.c.spec).order_by(queues.c.name).limit(size)
    if after is not None:
        query = query.where(queues.c.name > after)
    return [(QueueName(name), spec) for name, spec in (await connection.execute(query)).all()]


async def update_spec(connection: AsyncConnection, name: QueueName, spec: bytes, etag: str) -> StoredQueue:
    """Replace a queue's spec.

    Args:
        connection: The transaction.
        name: The queue.
        spec: The serialized QueueSpec.
        etag: The one that the caller read; empty: any.

    Raises:
        NotFound: QUEUE_NOT_FOUND.
        Aborted: The queue has another etag now; ETAG_MISMATCH.
    """
    row = (
        await connection.execute(select(queues).where(queues.c.name == name).with_for_update())
    ).one_or_none()
    if row is None:
        raise not_found(name)
    if etag and etag != _stored(row, Counts()).etag:
        raise Aborted(
            f"{name} has changed since it was read; read it again and repeat the change",
            reason="ETAG_MISMATCH",
            metadata={"queue": name},
        )
    values = {"spec": spec, "lost_after": _lost_after(spec), "revision": queues.c.revision + 1}
    row = (
        await connection.execute(update(queues).where(queues.c.name == name).values(values).returning(queues))
    ).one()
    await _keep_spec(connection, spec)
    return (await _with_counts(connection, [row]))[0]


async def set_paused(connection: AsyncConnection, name: QueueName, paused: bool) -> StoredQueue:
    """Stop or resume handing out; NotFound/QUEUE_NOT_FOUND if there is no such queue."""
    row = (
        await connection.execute(
            update(queues).where(queues.c.name == name).values(paused=paused).returning(queues)
        )
    ).one_or_none()
    if row is None:
        raise not_found(name)
    return (await _with_counts(connection, [row]))[0]


async def delete_empty(connection: AsyncConnection, name: QueueName) -> None:
    """Remove a queue.

    Raises:
        NotFound: QUEUE_NOT_FOUND.
        FailedPrecondition: Runs in it have not ended; QUEUE_NOT_EMPTY.
    """
    # Submissions hold the row shared until they commit, so none can slip in after the count.
    locked = select(queues.c.name).where(queues.c.name == name).with_for_update()
    if (await connection.execute(locked)).one_or_none() is None:
        raise not_found(name)
    counts = (await _counts(connection, [name])).get(name, Counts())
    if counts != Counts():
        raise FailedPrecondition(
            f"{name} has {counts.waiting} waiting and {counts.active} active runs; "
            "cancel them or let them end, then delete it",
            reason="QUEUE_NOT_EMPTY",
            metadata={"queue": name, "waiting": str(counts.waiting), "active": str(counts.active)},
        )
    await connection.execute(delete(queues).where(queues.c.name == name))


def _lost_after(spec: bytes) -> timedelta:
    """Return what a claim needs of a spec, kept beside it so that a claim need not read the spec."""
    return policy_of(queues_pb2.QueueSpec.FromString(spec).lease_policy).lost_after


async def _keep_spec(connection: AsyncConnection, spec: bytes) -> None:
    await connection.execute(
        upsert(queue_specs).values(digest=spec_digest(spec), spec=spec).on_conflict_do_nothing()
    )


async def _with_counts(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[StoredQueue]:
    counts = await _counts(connection, [row.name for row in rows])
    return [_stored(row, counts.get(row.name, Counts())) for row in rows]


async def _counts(connection: AsyncConnection, names: Sequence[str]) -> dict[str, Counts]:
    """Count exactly: a run is in one place, and all are read in one statement."""
    counts: dict[str, Counts] = {}
    for row in (await connection.execute(_COUNTS, {"queues": names})).all():
        before = counts.get(row.queue, Counts())
        counts[row.queue] = Counts(before.waiting + row.waiting, before.active + row.active)
    return counts


def _stored(row: Row[Any], counts: Counts) -> StoredQueue:
    return StoredQueue(row.name, row.spec, row.paused, row.revision, row.create_time, counts)


def not_found(name: str) -> NotFound:
    """Make the error for a queue that does not exist."""
    return NotFound(
        f"{name} does not exist; `towline queue list` shows those that do",
        reason="QUEUE_NOT_FOUND",
        metadata={"queue": name},
    )
