"""Which blobs there are, where their bytes are, and which are needed no more.

A row means that the bytes are there. Whoever is told so may rely on it for the grace: `present` notes
when that was. `discard` takes rows away; how that fits with those who add references says `references`.
"""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, any_, delete, func, literal, not_, select, update
from sqlalchemy.dialects.postgresql import ARRAY, BIGINT, TEXT, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import InvalidArgument, NotFound
from towline_registry.core.digests import Digest
from towline_registry.core.objects import ObjectKey
from towline_registry.storage import references
from towline_registry.storage.tables import blobs, discarded_objects

__all__ = ["Stored", "add", "discard", "discarded", "forget", "not_found", "present", "require", "unknown"]

_Names = ARRAY(TEXT(collation="C"))


class Stored(NamedTuple):
    """Where the bytes of a blob are, and how many."""

    size_bytes: int
    key: ObjectKey


async def present(
    connection: AsyncConnection, digests: Collection[Digest], fresh: timedelta
) -> dict[Digest, Stored]:
    """Give those of the blobs that are there, and note that they are needed.

    Args:
        connection: In a transaction.
        digests: The blobs asked for.
        fresh: What was noted within this time is not noted again.
    """
    stale = (
        select(blobs.c.digest)
        .where(_among(digests), blobs.c.needed_time < func.now() - fresh)
        # In their order, so that two who ask for the same ones do not wait for each other.
        .order_by(blobs.c.digest)
        .with_for_update(key_share=True)
        .cte("stale")
    )
    await connection.execute(
        update(blobs).where(blobs.c.digest == stale.c.digest).values(needed_time=func.now())
    )
    # By a statement of its own: the one above may have waited until a blob was gone.
    rows = await connection.execute(
        select(blobs.c.digest, blobs.c.size_bytes, blobs.c.object_key).where(_among(digests))
    )
    return {Digest(row.digest): Stored(row.size_bytes, ObjectKey(row.object_key)) for row in rows}


async def add(connection: AsyncConnection, new: Mapping[Digest, Stored]) -> set[ObjectKey]:
    """Record blobs whose bytes are in the object store; give the keys of those that are there from elsewhere.

    Their objects are not needed; those who have recorded them first have others.
    """
    digests = sorted(new)
    columns = func.unnest(
        literal(digests, _Names),
        literal([new[digest].size_bytes for digest in digests], ARRAY(BIGINT)),
        literal([new[digest].key for digest in digests], _Names),
    )
    given = columns.table_valued("digest", "size_bytes", "object_key").render_derived()
    row = insert(blobs).from_select(["digest", "size_bytes", "object_key"], select(given))
    recorded = await connection.scalars(
        row.on_conflict_do_update(
            index_elements=[blobs.c.digest], set_={"needed_time": func.now()}
        ).returning(blobs.c.object_key)
    )
    return {stored.key for stored in new.values()}.difference(map(ObjectKey, recorded))


async def require(
    connection: AsyncConnection, wanted: Mapping[Digest, int | None] | Mapping[Digest, int], field: str
) -> None:
    """Check that blobs are there with the sizes they are said to have; none goes before the transaction ends.

    Args:
        connection: In the transaction that makes references to them.
        wanted: Their sizes in bytes; None: any.
        field: Where the sizes stand in the request.

    Raises:
        NotFound: Some are missing; reason BLOB_NOT_FOUND.
        InvalidArgument: One has another size; names `field`.
    """
    rows = await connection.execute(
        select(blobs.c.digest, blobs.c.size_bytes)
        .where(_among(wanted))
        .order_by(blobs.c.digest)
        .with_for_update(read=True, key_share=True)
    )
    found = {Digest(row.digest): row.size_bytes for row in rows}
    missing = [digest for digest in wanted if digest not in found]
    if missing:
        raise not_found(missing)
    for digest, size_bytes in wanted.items():
        if size_bytes is not None and found[digest] != size_bytes:
            raise InvalidArgument.field(field, f"{digest} has {found[digest]} bytes, not {size_bytes}")


async def discard(
    connection: AsyncConnection, grace: timedelta, after: Digest | None, most: int
) -> tuple[int, Digest | None]:
    """Take away the rows of blobs that no version needs and nobody was told of within the grace.

    Args:
        connection: In a transaction of its own.
        grace: How long whoever was told that a blob is there may rely on it.
        after: Look at the blobs after this one; None: from the first.
        most: Look at so many.

    Returns:
        How many rows were taken away, and the last blob looked at; None: there are no more.
    """
    looked_at = (
        select(blobs.c.digest)
        .where(blobs.c.digest > (after or ""))
        .order_by(blobs.c.digest)
        .limit(most)
        .subquery()
    )
    last: str | None = await connection.scalar(select(func.max(looked_at.c.digest)))
    if last is None:
        return 0, None
    # What is locked is in use just now.
    candidates = await connection.scalars(
        select(blobs.c.digest)
        .where(
            and_(blobs.c.digest > (after or ""), blobs.c.digest <= last),
            blobs.c.needed_time < func.now() - grace,
            not_(references.is_referenced(blobs.c.digest)),
        )
        .with_for_update(skip_locked=True)
    )
    locked = [Digest(digest) for digest in candidates]
    # By a statement of its own, for the one above did not see references of who held a lock until then.
    gone = (
        delete(blobs)
        .where(_among(await references.unreferenced(connection, locked)))
        .returning(blobs.c.object_key)
        .cte("gone")
    )
    result = await connection.execute(
        insert(discarded_objects).from_select(["object_key"], select(gone.c.object_key))
    )
    return result.rowcount, Digest(last)


async def discarded(connection: AsyncConnection, most: int) -> list[ObjectKey]:
    """Give objects that are to be deleted, the oldest first."""
    keys = await connection.scalars(
        select(discarded_objects.c.object_key).order_by(discarded_objects.c.discard_time).limit(most)
    )
    return [ObjectKey(key) for key in keys]


async def forget(connection: AsyncConnection, keys: Collection[ObjectKey]) -> None:
    """Note that discarded objects are deleted."""
    await connection.execute(
        delete(discarded_objects).where(discarded_objects.c.object_key == any_(literal(list(keys), _Names)))
    )


async def unknown(connection: AsyncConnection, keys: Collection[ObjectKey]) -> list[ObjectKey]:
    """Give those objects that no blob has."""
    rows = await connection.scalars(
        select(blobs.c.object_key).where(blobs.c.object_key == any_(literal(list(keys), _Names)))
    )
    return sorted(set(keys).difference(map(ObjectKey, rows)))


def not_found(missing: list[Digest]) -> NotFound:
    """Say that blobs are missing; names the first."""
    others = f" and {len(missing) - 1} others are" if len(missing) > 1 else " is"
    return NotFound(
        f"the blob {missing[0]}{others} not in the registry; upload first",
        reason="BLOB_NOT_FOUND",
        metadata={"digest": missing[0], "missing_count": str(len(missing))},
    )


def _among(digests: Collection[Any]) -> ColumnElement[bool]:
    return blobs.c.digest == any_(literal(list(digests), _Names))
