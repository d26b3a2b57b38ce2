"""Stores new runs: those of all requests that wait at a moment are one statement.

Where that is one run alone, and an agent has room for it, the statement hands it out as well.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from towline.errors import TowlineError
from towline_queue.core.matching import Lane
from towline_queue.dispatcher import Dispatcher
from towline_queue.group_commit import GroupCommit
from towline_queue.signals import Signals
from towline_queue.storage.claims import Claims
from towline_queue.storage.database import Database
from towline_queue.storage.launch_specs import KnownSpecs
from towline_queue.storage.new_runs import NewRuns, Outcome, store

__all__ = ["Storing"]

# While PostgreSQL carries out one statement, the next is on its way.
_AT_ONCE: Final = 3
_MOST_RUNS: Final = 1000


class Storing:
    """Stores the runs of requests and announces them.

    Args:
        database: Where to.
        claims: Stores one run alone.
        dispatcher: Has room for it, or has not.
        signals: Is told which queues have new runs.
    """

    def __init__(self, database: Database, claims: Claims, dispatcher: Dispatcher, signals: Signals) -> None:
        self.signals = signals
        self._database = database
        self._claims = claims
        self._dispatcher = dispatcher
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
            stored = await self._store_distinct(distinct)
        except TowlineError as error:
            # A value, so that it is not tried again: who asked may have no request_id, and decides.
            return [error] * len(wanted)
        outcomes = dict(zip(map(id, distinct), stored, strict=True))
        # One that came twice was stored once, and is there for the other.
        return [outcomes.get(id(request), Outcome.REPEATED) for request in wanted]

    async def _store_distinct(self, requests: Sequence[NewRuns]) -> Sequence[Outcome]:
        alone = requests[0] if len(requests) == 1 else None
        if alone and alone.lone and not self._known.missing(new.kind for new in alone.kinds):
            outcome = await self._store_lone(alone)
            if outcome is not Outcome.STALE:  # else its queue may be locked: what follows waits for that
                return [outcome]
        outcomes = await store(self._database, requests, self._known)
        self._announce(requests, outcomes)
        return outcomes

    async def _store_lone(self, request: NewRuns) -> Outcome:
        kind = request.kinds[0].kind
        async with self._dispatcher.room_for(Lane(kind.queue, kind.shape)) as room:
            outcome, room.claimed = await self._claims.store(request, room.offers, room.choose)
        if room.claimed is None:
            self._announce([request], [outcome])
        return outcome

    def _announce(self, requests: Sequence[NewRuns], outcomes: Sequence[Outcome]) -> None:
        ready = {
            (new.kind.queue, new.kind.shape)
            for request, outcome in zip(requests, outcomes, strict=True)
            for new in request.kinds
            if outcome is Outcome.STORED and new.due is None
        }
        for queue, shape in ready:
            self.signals.queue_ready(queue, shape)
