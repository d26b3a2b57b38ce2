"""Takes away what nobody needs: blobs without a version, objects without a blob, uploads nobody went on with.

Blobs go in two steps. Their rows go first, in transactions that look at references and at when somebody was
last told of them (`storage.blobs.discard`); from then on the blob is unknown and may be stored anew, under
another key. The objects go afterwards, from a list that outlives crashes. One replica takes its turn for all,
to spare the database and the store; nothing depends on there being only one.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import Internal
from towline.service.postgres import transaction
from towline_registry.blobs.spool import Spool
from towline_registry.blobs.store import BlobStore
from towline_registry.core.objects import OWNER
from towline_registry.rounds import Rounds
from towline_registry.storage import blobs, upkeep

if TYPE_CHECKING:
    from towline_registry.core.digests import Digest

__all__ = ["CollectionTimes", "Collector"]

_log = logging.getLogger(__name__)

_BLOBS_AT_ONCE: Final = 10_000
_OBJECTS_AT_ONCE: Final = 1000


@dataclass(frozen=True)
class CollectionTimes:
    """How long things may take.

    Attributes:
        grace: How long a blob stays that no version needs, from when somebody was last told of it.
        every: Time between collections.
        spool: How long an upload stays that nobody goes on with.
    """

    grace: timedelta
    every: timedelta
    spool: timedelta


class Collector:
    """Collects at an interval.

    Args:
        engine: Where blobs are recorded.
        store: Where bytes are kept.
        spool: Where this replica's uploads in progress are.
        times: Of the service's settings.
    """

    def __init__(self, engine: AsyncEngine, store: BlobStore, spool: Spool, times: CollectionTimes) -> None:
        self._engine = engine
        self._store = store
        self._spool = spool
        self._times = times
        self._rounds = Rounds(engine, "collection of blobs", "collecting blobs", times.every)

    async def run(self) -> None:
        """Collect until cancelled."""
        await self._rounds.run(self._look)

    async def _look(self) -> None:
        await self.drop_abandoned_uploads()
        if await self._rounds.is_due():
            await self.collect()

    async def collect(self) -> None:
        """Take away all that is due now."""
        await self.discard_blobs()
        await self.delete_objects()
        await self.delete_leftovers()

    async def drop_abandoned_uploads(self) -> None:
        """Remove from the spool what nobody goes on with."""
        dropped = await asyncio.to_thread(self._spool.drop_abandoned, self._times.spool)
        if dropped:
            _log.info("dropped %d uploads that nobody went on with", dropped)

    async def discard_blobs(self) -> None:
        """Take away the rows of blobs that nobody needs; their objects are to be deleted then."""
        last: Digest | None = None
        total = 0
        while True:
            async with transaction(self._engine) as connection:
                count, last = await blobs.discard(connection, self._times.grace, last, _BLOBS_AT_ONCE)
            total += count
            if last is None:
                break
        if total:
            _log.info("discarded %d blobs that nobody needs", total)

    async def delete_objects(self) -> None:
        """Delete the objects of discarded blobs."""
        while True:
            async with transaction(self._engine) as connection:
                keys = await blobs.discarded(connection, _OBJECTS_AT_ONCE)
            if not keys:
                return
            await self._store.delete(keys)
            async with transaction(self._engine) as connection:
                await blobs.forget(connection, keys)

    async def delete_leftovers(self) -> None:
        """Delete objects that no blob has: a crash came between storing and recording them.

        Only in an object store that is this registry's alone: with another's database, or another registry in
        the same store, objects that somebody needs would look like leftovers.
        """
        if not await self._store_is_ours():
            _log.warning(
                "leftovers in BLOB_URL are not deleted: another registry has marked the store as its own; "
                "give each registry a store, or delete the object %r if that one is gone",
                OWNER,
            )
            return
        # An upload records its object within seconds, so what is older than the grace is never recorded.
        async for keys in self._store.put_before(datetime.now(UTC) - self._times.grace):
            if not keys:
                continue
            async with transaction(self._engine) as connection:
                leftovers = await blobs.unknown(connection, keys)
            if leftovers:
                await self._store.delete(leftovers)
                _log.info("deleted %d objects that no blob has", len(leftovers))

    async def _store_is_ours(self) -> bool:
        async with transaction(self._engine) as connection:
            ours = str(await upkeep.identity_of(connection)).encode()
        try:
            [owner] = await self._store.read_small({OWNER: len(ours)})
        except Internal:  # there is none yet
            await self._store.put_small({OWNER: ours})
            return True
        return owner == ours
