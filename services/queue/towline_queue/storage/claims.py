"""Handing out waiting runs: (look), decide, claim. A new run is handed out by the statement that stores it.

What is decided is how many runs of a lane go where; which ones they are is found by the claim, so that it is
one statement where only one lane is searched.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from towline.v1 import runs_pb2
from towline_queue.core.dispatch import HandedOut, Search
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.leases import Claimed
from towline_queue.core.low_water import LowWater
from towline_queue.core.matching import Lane, Offer, Place, WaitingRun
from towline_queue.core.transitions import CLAIM
from towline_queue.storage.database import Database, Row, Transaction
from towline_queue.storage.new_runs import NewRuns, Outcome
from towline_queue.storage.shared_specs import SharedSpecs
from towline_queue.store import Choose

__all__ = ["Claims", "held_gpus"]

_PRIORITIES: Final = sorted(number for number in runs_pb2.Priority.values() if number)
_NOWHERE: Final = [0] * len(_PRIORITIES)


class Claims:
    """The claims of one process.

    Args:
        database: The way to PostgreSQL.
        clock: Seconds by a clock that does not jump.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._low_water = LowWater(_PRIORITIES)
        self._specs = SharedSpecs(database)

    async def hand_out(
        self, offers: Sequence[Offer], searches: Sequence[Search], choose: Choose
    ) -> HandedOut:
        """Give waiting runs to sessions; see `store.LeaseStore`."""
        one_lane = len(searches) == 1
        if one_lane and not searches[0].lane.shape:
            return await self._handed_out(await self._claim(self._database, searches, choose(offers, None)))
        async with self._database.transaction() as transaction:
            free = offers
            if any(search.lane.shape for search in searches):
                free = await _without_held_gpus(transaction, offers)
            waiting = None if one_lane else await self._look(transaction, searches)
            claim = await self._claim(transaction, searches, choose(free, waiting))
        return await self._handed_out(claim, waiting)

    async def store(
        self, new: NewRuns, offers: Sequence[Offer], choose: Choose
    ) -> tuple[Outcome, Claimed | None]:
        """Store a lone run, and lease it where none of its lane waits before it.

        Args:
            new: The run; its kind's spec is there.
            offers: Who could have it; none: it is to wait.
            choose: As for `hand_out`; chooses one place at most.

        Returns:
            What became of the request, which is STALE also while its queue is locked; and the lease, if
            it was handed out.
        """
        if not (offers and new.kinds[0].kind.shape):
            return await self._store(self._database, new, choose(offers, None))
        async with self._database.transaction() as transaction:
            free = await _without_held_gpus(transaction, offers)
            return await self._store(transaction, new, choose(free, None))

    async def _store(
        self, database: Database | Transaction, new: NewRuns, places: Sequence[Place]
    ) -> tuple[Outcome, Claimed | None]:
        (made,), (name,), (own_spec,) = new.kinds, new.names, new.own_specs
        kind, queue = made.kind, made.queue
        assert new.key and queue  # noqa: S101 - it is `lone`
        place = places[0] if places else None
        (row,) = await database.rows(
            "insert_run",
            method=new.key.method,
            request_id=new.key.id,
            request_digest=new.key.digest,
            response=new.response,
            queue=kind.queue,
            queue_revision=queue.revision,
            queue_time=queue.create_time,
            name=name,
            priority=kind.priority,
            shape=kind.shape,
            job_version=kind.job_version,
            author=kind.author,
            labels=kind.labels_json,
            variables=kind.variables_json,
            launch_spec=kind.digest,
            own_spec=own_spec,
            max_wait=kind.max_wait,
            agent=place and place.agent,
            session=place and place.session,
            gpu_ids=",".join(place.gpu_ids) if place else "",
            priorities=_PRIORITIES,
            floors=self._floors([Search(Lane(kind.queue, kind.shape), 1, anew=False)]),
            state=CLAIM.target,
        )
        if not row["stored"]:
            return Outcome.REPEATED if row["fresh"] else Outcome.STALE, None
        if place is None or row["lost_after_s"] is None:
            return Outcome.STORED, None
        key, spec = AttemptKey(name, 1), kind.spec + own_spec
        ttl = timedelta(seconds=row["lost_after_s"])
        return Outcome.STORED, Claimed(key, place.session, 1, spec, place.gpu_ids, ttl)

    async def _look(self, transaction: Transaction, searches: Sequence[Search]) -> list[WaitingRun]:
        """Return the first waiting runs of lanes."""
        rows = await transaction.rows(
            "claim_look",
            queues=[search.lane.queue for search in searches],
            shapes=[search.lane.shape for search in searches],
            mosts=[search.most for search in searches],
            priorities=_PRIORITIES,
            floors=self._floors(searches),
        )
        return [WaitingRun(*row) for row in rows]

    async def _claim(
        self, database: Database | Transaction, searches: Sequence[Search], places: Sequence[Place]
    ) -> "_Claim":
        """Give the first runs of lanes to places."""
        if not places:
            return _Claim(searches, places, [])
        numbers = {search.lane: number for number, search in enumerate(searches, 1)}
        rows = await database.rows(
            "claim",
            queues=[search.lane.queue for search in searches],
            shapes=[search.lane.shape for search in searches],
            lanes=[numbers[place.lane] for place in places],
            agents=[place.agent for place in places],
            sessions=[place.session for place in places],
            slots=[place.slots for place in places],
            gpu_ids=[",".join(place.gpu_ids) for place in places],
            priorities=_PRIORITIES,
            floors=self._floors(searches),
            state=CLAIM.target,
        )
        return _Claim(searches, places, rows)

    def _floors(self, searches: Sequence[Search]) -> list[int]:
        now_s = self._clock()
        return [
            floor
            for search in searches
            for floor in (_NOWHERE if search.anew else self._low_water.floors(search.lane, now_s))
        ]

    async def _handed_out(self, claim: "_Claim", waiting: Sequence[WaitingRun] | None = None) -> HandedOut:
        """Tell what came of a claim, after its commit.

        Args:
            claim: The claim.
            waiting: What was seen before it; None where nobody looked.
        """
        specs = await self._specs.of(row["launch_spec"] for row in claim.rows if row["run"] is not None)
        asked: Counter[Lane] = Counter()
        for place in claim.places:
            asked[place.lane] += place.slots
        claimed: list[Claimed] = []
        refused = set[UUID]()
        held = set[Lane]()
        taken: dict[Lane, list[tuple[int, int]]] = defaultdict(list)
        ttls: dict[float, timedelta] = {}
        for choice, run, epoch, number, priority, seq, lost_after_s, launch_spec, own_spec in claim.rows:
            if choice < 0:
                held.add(claim.searches[-choice - 1].lane)
                continue
            lane, session, _, slots, gpu_ids = claim.places[choice - 1]
            if run is None:
                refused.add(session)
                asked[lane] -= slots
                continue
            ttl = ttls.get(lost_after_s) or ttls.setdefault(lost_after_s, timedelta(seconds=lost_after_s))
            spec = specs[launch_spec] + own_spec
            claimed.append(Claimed(AttemptKey(run, epoch), session, number, spec, gpu_ids, ttl))
            taken[lane].append((priority, seq))
        found = {lane: len(runs) for lane, runs in taken.items()}
        dry = self._learn(claim.searches, asked, taken, waiting) - held
        return HandedOut(claimed, found, frozenset(refused), dry, frozenset(held))

    def _learn(
        self,
        searches: Sequence[Search],
        asked: Mapping[Lane, int],
        taken: Mapping[Lane, Sequence[tuple[int, int]]],
        waiting: Sequence[WaitingRun] | None,
    ) -> frozenset[Lane]:
        """Move the low-water marks, and return the lanes in which nothing is left.

        Args:
            searches: What was searched.
            asked: How many runs of each lane there were places for.
            taken: The runs taken of each lane, (priority, sequence number), in order.
            waiting: What was seen before; None where nobody looked.
        """
        seen: dict[Lane, list[tuple[int, int]]] = defaultdict(list)
        for run in waiting or ():
            seen[Lane(run.queue, run.shape)].append(run.place)
        dry = set()
        for lane, most, anew in searches:
            gone = taken.get(lane, ())
            all_taken = waiting is not None and len(seen[lane]) == len(gone) < max(most, 1)
            if all_taken or len(gone) < asked.get(lane, 0):
                dry.add(lane)
            elif anew:
                self._low_water.lower(lane, seen[lane] or gone)
            self._low_water.taken(lane, gone)
        return frozenset(dry)


@dataclass(frozen=True)
class _Claim:
    """A claim that was carried out: rows as claim.sql returns them."""

    searches: Sequence[Search]
    places: Sequence[Place]
    rows: Sequence[Row]


async def held_gpus(transaction: Transaction, agent_names: Collection[str]) -> dict[str, set[str]]:
    """Lock agents and return the GPUs that leases of each hold; an agent that is locked already is left out.

    The lock makes claims for one agent take turns, so that no two that overlap (one whose commit nobody
    waits for any more, and the next) give away one GPU: the claim, which is a statement after the lock, sees
    the leases that the other one made.
    """
    rows = await transaction.rows("claim_agents", agents=list(agent_names))
    return {row["name"]: set(row["gpu_ids"]) for row in rows}


async def _without_held_gpus(transaction: Transaction, offers: Sequence[Offer]) -> list[Offer]:
    """Take GPUs out of the offers that leases of their agents hold: what an agent says may be out of date."""
    with_gpus = [offer.agent for offer in offers if offer.free_gpus]
    if not with_gpus:
        return list(offers)
    held = await held_gpus(transaction, with_gpus)
    # One that is not there is locked: its GPUs are being given away, or it opens a session.
    return [
        replace(offer, free_gpus=offer.free_gpus - held[offer.agent] if offer.agent in held else frozenset())
        for offer in offers
    ]
