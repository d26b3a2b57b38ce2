"""How versions end: those that no rule keeps are deleted, and what is left of deleted ones goes days later.

Until then a deleted version's row and bytes stay, for a run may have been submitted just before: the queue
service remembers job versions for a while. Before they go it is asked again, and a version that a run refers
to after all is known again.

Answers that were kept for repeated requests go as well. Several replicas do no harm: each change is made
under the lock of its series, after looking again.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towline.errors import FailedPrecondition, NotFound
from towline.service.postgres import transaction
from towline_registry.queue_client import RunReferences
from towline_registry.rounds import Rounds
from towline_registry.stale_uses import StaleUses
from towline_registry.storage import answers, artifacts, jobs, removal, series
from towline_registry.storage.series import ARTIFACTS, JOBS, Key, Series

__all__ = ["Expiry", "ExpiryTimes"]

_log = logging.getLogger(__name__)

_MOST_AT_ONCE: Final = 500
# An answer to CreateJobVersion has the whole version, which may be megabytes.
_KEEP_ANSWERS: Final = timedelta(days=7)

_Delete: TypeAlias = Callable[[AsyncConnection, Key], Awaitable[None]]


@dataclass(frozen=True)
class ExpiryTimes:
    """How long things may take.

    Attributes:
        every: Time between rounds.
        grace: How long the rows of deleted versions stay; longer than the queue service remembers them.
    """

    every: timedelta
    grace: timedelta


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Expiry:
    """Ends versions at an interval.

    Args:
        engine: Where versions are kept.
        runs: Knows which runs refer to job versions.
        stale_uses: Takes away uses of artifact versions by runs that are not there.
        times: Of the service's settings.
        clock: Tells the time, with its zone.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        runs: RunReferences,
        stale_uses: StaleUses,
        times: ExpiryTimes,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._engine = engine
        self._runs = runs
        self._stale_uses = stale_uses
        self._times = times
        self._rounds = Rounds(engine, "expiry of versions", "ending versions", times.every)
        self._clock = clock

    async def run(self) -> None:
        """Make rounds until cancelled."""
        await self._rounds.run(self._look)

    async def _look(self) -> None:
        if await self._rounds.is_due():
            await self.round()

    async def round(self) -> None:
        """Do what is due now.

        Raises:
            Unavailable: The database or the queue service gave no answer; the next round does the rest.
        """
        now = self._clock()
        await self._forget_answers(now - _KEEP_ANSWERS)
        await self._expire_artifacts(now)
        await self._purge_artifacts(now - self._times.grace)
        try:
            await self._expire_jobs(now)
            await self._purge_jobs(now - self._times.grace)
        except FailedPrecondition as error:  # nobody said where the queue service is
            _log.warning("old versions of jobs stay: %s", error.message)

    async def _expire_artifacts(self, now: datetime) -> None:
        expired = artifacts.expired(now)
        for key in await self._not_looked_at(ARTIFACTS, expired, now):
            await self._stale_uses.drop(key)
            if await self._delete(ARTIFACTS, key, expired, artifacts.delete):
                _log.info("deleted %s, which no rule of its artifact keeps", key.name)
            else:
                await self._set_kept(ARTIFACTS, key, now)

    async def _expire_jobs(self, now: datetime) -> None:
        expired = removal.expired(JOBS, now)
        for key in await self._not_looked_at(JOBS, expired, now):
            if not await self._runs.run_of(key.name) and await self._delete(JOBS, key, expired, jobs.delete):
                _log.info("deleted %s, which no rule of its job keeps", key.name)
            else:
                await self._set_kept(JOBS, key, now)

    async def _not_looked_at(self, kind: Series, expired: Select[Any], now: datetime) -> list[Key]:
        async with transaction(self._engine) as connection:
            return await removal.not_looked_at(connection, kind, expired, now, _MOST_AT_ONCE)

    async def _set_kept(self, kind: Series, key: Key, now: datetime) -> None:
        async with transaction(self._engine) as connection:
            await removal.set_kept(connection, kind, key, now)

    async def _chosen(self, keys: Select[Any]) -> list[Key]:
        async with transaction(self._engine) as connection:
            return [Key(*row) for row in await connection.execute(keys.limit(_MOST_AT_ONCE))]

    async def _delete(self, kind: Series, key: Key, expired: Select[Any], delete: _Delete) -> bool:
        """Delete a version if that is still due; say whether it was."""
        try:
            async with transaction(self._engine) as connection:
                await series.hold(connection, kind, key.series)
                still = expired.where(series.the_version(kind, key))
                if (await connection.execute(still)).one_or_none() is None:
                    return False
                await delete(connection, key)
        except (NotFound, FailedPrecondition):  # somebody deleted it, or began to use it
            return False
        return True

    async def _purge_artifacts(self, before: datetime) -> None:
        for key in await self._chosen(artifacts.purgeable(before)):
            async with transaction(self._engine) as connection:
                await series.begin(connection, ARTIFACTS, key.series)
                await removal.purge(connection, ARTIFACTS, key)

    async def _purge_jobs(self, before: datetime) -> None:
        for key in await self._chosen(removal.buried(JOBS, before)):
            run = await self._runs.run_of(key.name)
            async with transaction(self._engine) as connection:
                await series.begin(connection, JOBS, key.series)
                if run:
                    await jobs.restore(connection, key)
                else:
                    await removal.purge(connection, JOBS, key)
            if run:
                _log.warning("%s refers to %s, which was deleted; it is known again", run, key.name)

    async def _forget_answers(self, before: datetime) -> None:
        forgotten = _MOST_AT_ONCE
        while forgotten == _MOST_AT_ONCE:
            async with transaction(self._engine) as connection:
                forgotten = await answers.forget(connection, before, _MOST_AT_ONCE)
