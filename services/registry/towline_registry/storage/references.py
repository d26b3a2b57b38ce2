"""Which blobs are needed, and by which version. A version that is deleted needs them until its row goes.

No blob that is needed is ever collected, whoever comes first:

- who adds references has locked the blobs' rows FOR KEY SHARE in the same transaction (`blobs.require`), so
  that none of them goes before the commit;
- who deletes a blob locks its row FOR UPDATE first, and only then, by a second statement, asks for
  references: a statement that does both sees references as they were before it waited for the lock.
"""

from collections.abc import Collection, Iterable

from sqlalchemy import ColumnElement, any_, exists, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, TEXT, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline_registry.core.digests import Digest
from towline_registry.storage.tables import blob_references

__all__ = ["add", "drop", "is_referenced", "unreferenced"]

_Names = ARRAY(TEXT(collation="C"))


async def add(connection: AsyncConnection, owner: str, digests: Iterable[Digest]) -> None:
    """Note that a version needs blobs, whose rows this transaction has locked; again does no harm.

    Args:
        connection: In the transaction that makes the version.
        owner: The version, "jobs/{job}/versions/{version}" or "artifacts/{artifact}/versions/{version}".
        digests: The blobs.
    """
    # In their order, so that two that add the same ones do not wait for each other.
    needed = func.unnest(literal(sorted(set(digests)), _Names)).table_valued("digest").render_derived()
    rows = select(needed.c.digest, literal(owner, TEXT))
    await connection.execute(
        insert(blob_references).from_select(["digest", "owner"], rows).on_conflict_do_nothing()
    )


async def drop(connection: AsyncConnection, owners: Collection[str]) -> None:
    """Forget all that versions needed; their rows go in the same transaction."""
    wanted = literal(list(owners), _Names)
    await connection.execute(blob_references.delete().where(blob_references.c.owner == any_(wanted)))


async def unreferenced(connection: AsyncConnection, digests: Collection[Digest]) -> set[Digest]:
    """Give those of the blobs that no version needs; their rows are locked FOR UPDATE before."""
    wanted = literal(list(digests), _Names)
    found = await connection.scalars(
        select(blob_references.c.digest).where(blob_references.c.digest == any_(wanted)).distinct()
    )
    return set(digests).difference(map(Digest, found))


def is_referenced(digest: ColumnElement[str]) -> ColumnElement[bool]:
    """Make the condition that some version needs a blob, for a query that looks for those that none does."""
    return exists(select(literal(1)).where(blob_references.c.digest == digest))
