"""Takes away uses by runs that never came to be: the queue service notes a use before it stores the run."""

from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.service.postgres import transaction
from towline_registry.queue_client import RunReferences
from towline_registry.storage import uses
from towline_registry.storage.series import Key

__all__ = ["StaleUses"]

# Storing runs takes seconds from when their uses are noted.
_SETTLED: Final = timedelta(hours=1)
# A batch of runs that failed has left so many at most.
_MOST_AT_ONCE: Final = 1000


class StaleUses:
    """Looks whether the readers of artifact versions are there.

    Args:
        engine: Where uses are noted.
        runs: Knows which runs there are.
    """

    def __init__(self, engine: AsyncEngine, runs: RunReferences) -> None:
        self._engine = engine
        self._runs = runs

    async def drop(self, key: Key) -> None:
        """Forget uses of a version by runs that are not there, from the newest to the first that is.

        Raises:
            Unavailable: The queue service gave no answer; reason QUEUE_UNAVAILABLE.
        """
        for _ in range(_MOST_AT_ONCE):
            async with transaction(self._engine) as connection:
                use = await uses.newest_settled(connection, key, _SETTLED)
            if use is None or await self._runs.is_there(use.reader.run):
                return
            async with transaction(self._engine) as connection:
                await uses.drop(connection, use)
