"""Stores new runs: those of all requests that wait at a moment are one statement."""

import asyncio
from collections.abc import Sequence
from typing import Final

from towline.errors import TowlineError
from towline_queue.group_commit import GroupCommit
from towline_queue.signals import Signals
from towline_queue.storage.database import Database
from towline_queue.storage.launch_specs import KnownSpecs
from towline_queue.storage.new_runs import NewRuns, Outcome, store

__all__ = ["Storing"]

# While PostgreSQL carries out one statement, the next is on its way.
_AT_ONCE: Final = 2
_MOST_RUNS: Final = 1000


class Storing:
    """Stores the runs of requests and announces them.

    Args:
        database: Where to.
        signals: Is told which queues have new runs.
    """

    def __init__(self, database: Database, signals: Signals) -> None:
        self.signals = signals
        self._database = database
        self._known = KnownSpecs()
        self._commits = GroupCommit(self._store, most=_MOST_RUNS, weigh=lambda request: len(request.names))

    async def run(self) -> None:
        """Store what is submitted until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._commits.run())

    async def store(self, request: NewRuns) -> Outcome:
        """Store the runs of a request or nothing of it, and return what became of it after the commit.

        Raises:
            Unavailable: PostgreSQL was lost, and nobody knows; reason DATABASE_UNAVAILABLE.
            ResourceExhausted: It has no connection to give; reason OVERLOADED.
        """
        outcome = await self._commits.submit(request)
        if isinstance(outcome, TowlineError):
            raise outcome
        return outcome

    async def _store(self, wanted: Sequence[NewRuns]) -> Sequence[Outcome | TowlineError]:
        first: dict[object, NewRuns] = {}
        for request in wanted:
            first.setdefault(request.key[:2] if request.key else id(request), request)
        distinct = list(first.values())
        try:
            stored = await store(self._database, distinct, self._known)
        except TowlineError as error:
            # A value, so that it is not tried again: who asked may have no request_id, and decides.
            return [error] * len(wanted)
        outcomes = dict(zip(map(id, distinct), stored, strict=True))
        self._announce(distinct, stored)
        # One that came twice was stored once, and is there for the other.
        return [outcomes.get(id(request), Outcome.REPEATED) for request in wanted]

    def _announce(self, requests: Sequence[NewRuns], outcomes: Sequence[Outcome]) -> None:
        ready = {
            (new.kind.queue, new.kind.shape)
            for request, outcome in zip(requests, outcomes, strict=True)
            for new in request.kinds
            if outcome is Outcome.STORED and new.due is None
        }
        for queue, shape in ready:
            self.signals.queue_ready(queue, shape)
