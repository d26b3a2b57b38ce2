"""Which blobs there are."""

from collections.abc import Collection, Mapping

from sqlalchemy import any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, TEXT, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import InvalidArgument, NotFound
from towline_registry.core.digests import Digest
from towline_registry.storage.tables import blobs

__all__ = ["add", "not_found", "require", "sizes"]


async def sizes(connection: AsyncConnection, digests: Collection[Digest]) -> dict[Digest, int]:
    """Give the sizes in bytes of those of the blobs that are there."""
    wanted = literal(list(digests), ARRAY(TEXT(collation="C")))
    rows = await connection.execute(
        select(blobs.c.digest, blobs.c.size_bytes).where(blobs.c.digest == any_(wanted))
    )
    return {Digest(row.digest): row.size_bytes for row in rows}


async def add(connection: AsyncConnection, digest: Digest, size_bytes: int) -> None:
    """Record a blob whose bytes are in the object store; again does no harm."""
    await connection.execute(
        insert(blobs).values(digest=digest, size_bytes=size_bytes).on_conflict_do_nothing()
    )


async def require(connection: AsyncConnection, wanted: Mapping[Digest, int], field: str) -> None:
    """Check that blobs are there with the sizes they are said to have.

    Raises:
        NotFound: Some are missing; reason BLOB_NOT_FOUND.
        InvalidArgument: One has another size; names `field`.
    """
    found = await sizes(connection, wanted.keys())
    missing = [digest for digest in wanted if digest not in found]
    if missing:
        raise not_found(missing)
    for digest, size_bytes in wanted.items():
        if found[digest] != size_bytes:
            raise InvalidArgument.field(field, f"{digest} has {found[digest]} bytes, not {size_bytes}")


def not_found(missing: list[Digest]) -> NotFound:
    """Say that blobs are missing; names the first."""
    others = f" and {len(missing) - 1} others are" if len(missing) > 1 else " is"
    return NotFound(
        f"the blob {missing[0]}{others} not in the registry; upload first",
        reason="BLOB_NOT_FOUND",
        metadata={"digest": missing[0], "missing_count": str(len(missing))},
    )
