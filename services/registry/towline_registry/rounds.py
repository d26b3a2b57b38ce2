"""What the registry does at an interval, one replica at a time for all of them."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import TowlineError
from towline.service.postgres import transaction
from towline_registry.storage import upkeep

__all__ = ["Rounds"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rounds:
    """A task that comes round.

    Attributes:
        engine: Where the replicas tell each other.
        task: What the replicas know it by, such as "expiry of versions".
        doing: What it does, for the log, such as "ending versions".
        every: Time between two rounds.
    """

    engine: AsyncEngine
    task: str
    doing: str
    every: timedelta

    async def is_due(self) -> bool:
        """Begin a round unless any replica has begun one in time; say whether it is the caller's."""
        async with transaction(self.engine) as connection:
            return await upkeep.begin(connection, self.task, self.every)

    async def run(self, look: Callable[[], Awaitable[None]]) -> None:
        """Have `look` do a round where one is due, until cancelled; what fails is logged and tried again."""
        while True:
            try:
                await look()
            except TowlineError as error:
                _log.warning("%s failed, trying again later: %s", self.doing, error.message)
            except Exception:
                # A deadlock must not end the service that jobs depend on.
                _log.exception("%s failed, trying again later", self.doing)
            # Asked more often than it is due, so that a replica that has gone is soon followed.
            pause = self.every.total_seconds() / 4
            await asyncio.sleep(pause * (0.75 + random.random() / 2))  # noqa: S311 - jitter
