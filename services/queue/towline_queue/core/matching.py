"""Which waiting run goes to which agent: first in, first out within (queue, priority), without starving.

A run that does not fit now is passed by smaller ones, so that nothing stands idle. The first such run of
each (queue, priority), once it has waited longer than `reserve_after`, gets a reservation: the agent that
is closest to fitting it takes no GPU work that comes after it, until it fits.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Final, NamedTuple
from uuid import UUID

__all__ = [
    "MAX_BATCH",
    "Assignment",
    "Lane",
    "Offer",
    "Place",
    "WaitingRun",
    "lanes",
    "match",
    "places",
    "spread",
]

MAX_BATCH: Final = 2000
"""Most runs of one lane that one transaction hands out."""


@dataclass(frozen=True)
class Offer:
    """One agent session and what it could take now.

    Attributes:
        session: Its id.
        agent: "agents/{agent}".
        queues: Queues it serves, the preferred ones first.
        free_slots: Attempts it could take.
        free_gpus: UUIDs of the GPUs that are free.
        total_gpus: GPUs it has, free or not.
    """

    session: UUID
    agent: str
    queues: tuple[str, ...]
    free_slots: int
    free_gpus: frozenset[str]
    total_gpus: int

    def fitting(self, shape: int) -> int:
        """Return how many attempts with `shape` GPUs each it could take."""
        return min(self.free_slots, len(self.free_gpus) // shape) if shape else self.free_slots


class Lane(NamedTuple):
    """Waiting runs of one queue, "queues/{queue}", and one shape: how many GPUs each of them needs."""

    queue: str
    shape: int


class Place(NamedTuple):
    """Room for the next runs of a lane: `slots` of them in a session, or one, which uses these GPUs."""

    lane: Lane
    session: UUID
    agent: str
    slots: int
    gpu_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class WaitingRun:
    """One waiting run; `shape` is its number of GPUs, `waited` how long it has been ready."""

    run: str
    queue: str
    shape: int
    priority: int
    seq: int
    waited: timedelta

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among all: by priority, then by order of submission."""
        return self.priority, self.seq


@dataclass(frozen=True)
class Assignment:
    """A run for a session, with the GPUs it shall use."""

    run: str
    session: UUID
    gpu_ids: tuple[str, ...]


def lanes(offers: Iterable[Offer]) -> dict[Lane, int]:
    """Return the lanes that could be handed out, and how many of their runs the offers could take at most.

    That is 0 for a lane whose first run fits an agent, but not now: it is looked at for the run's sake.
    """
    serving: dict[str, list[Offer]] = defaultdict(list)
    for offer in offers:
        for queue in offer.queues:
            serving[queue].append(offer)
    result = {}
    for queue, servers in serving.items():
        for shape in range(max(offer.total_gpus for offer in servers) + 1):
            most = sum(offer.fitting(shape) for offer in servers)
            if most or shape:
                result[Lane(queue, shape)] = min(most, MAX_BATCH)
    return result


def spread(offers: Sequence[Offer], lane: Lane, most: int) -> list[Place]:
    """Choose places for runs of one lane, as `match` does where only that lane has runs.

    Args:
        offers: Of sessions that serve the lane's queue.
        lane: The lane.
        most: Runs to find room for.
    """
    rooms = [room for room in map(_Room, offers) if room.slots and len(room.gpus) >= lane.shape]
    # Who prefers the queue first, then as `_best` chooses: the tightest, then who has the most slots.
    ranks = [room.offer.queues.index(lane.queue) for room in rooms]
    heap = [(ranks[number], len(room.gpus), -room.slots, number) for number, room in enumerate(rooms)]
    heapq.heapify(heap)
    slots = [0] * len(rooms)
    found: list[Place] = []
    while heap and most > 0:
        number = heap[0][-1]
        room = rooms[number]
        gpu_ids = room.take(lane.shape)
        most -= 1
        if gpu_ids:
            found.append(Place(lane, room.offer.session, room.offer.agent, 1, gpu_ids))
        else:
            slots[number] += 1
        if room.slots and len(room.gpus) >= lane.shape:
            heapq.heapreplace(heap, (ranks[number], len(room.gpus), -room.slots, number))
        else:
            heapq.heappop(heap)
    found += [
        Place(lane, room.offer.session, room.offer.agent, count)
        for room, count in zip(rooms, slots, strict=True)
        if count
    ]
    return found


def places(
    assignments: Iterable[Assignment], waiting: Iterable[WaitingRun], agents: Mapping[UUID, str]
) -> list[Place]:
    """Turn assignments into places: the first run of a lane is for its first place, and so on.

    Args:
        assignments: From `match`, which passes over no run of a lane.
        waiting: What was matched.
        agents: The agent of each session.
    """
    assigned = {assignment.run: assignment for assignment in assignments}
    runs = sorted(
        (run for run in waiting if run.run in assigned), key=lambda run: (run.queue, run.shape, run.place)
    )
    found = []
    for run in runs:
        assignment = assigned[run.run]
        lane, session = Lane(run.queue, run.shape), assignment.session
        found.append(Place(lane, session, agents[session], 1, assignment.gpu_ids))
    return [
        place._replace(slots=sum(1 for _ in alike)) if not place.gpu_ids else place
        for place, alike in groupby(found)
    ]


class _Room:
    """What is left of an offer while runs are being placed."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.slots = offer.free_slots
        self.gpus = sorted(offer.free_gpus)
        self.reserved_for: WaitingRun | None = None

    def has_place(self, run: WaitingRun) -> bool:
        return self.slots > 0 and len(self.gpus) >= run.shape

    def takes(self, run: WaitingRun) -> bool:
        if self.reserved_for is not None and self.reserved_for.place < run.place:
            # Work without GPUs does no harm, while a slot stays.
            return run.shape == 0 and self.slots > 1
        return self.has_place(run)

    def take(self, shape: int) -> tuple[str, ...]:
        """Use a slot and as many GPUs."""
        self.slots -= 1
        if not shape:
            return ()
        taken, self.gpus = self.gpus[:shape], self.gpus[shape:]
        return tuple(taken)


def match(
    offers: Sequence[Offer], waiting: Iterable[WaitingRun], *, reserve_after: timedelta
) -> list[Assignment]:
    """Give waiting runs to sessions.

    Args:
        offers: All sessions, those without credits too: a run may be reserved for one of them.
        waiting: The first runs of each lane, and of each lane that is only looked at.
        reserve_after: How long a run that fits nowhere yet is passed by smaller ones at most.
    """
    rooms = [_Room(offer) for offer in offers]
    by_queue: dict[str, list[WaitingRun]] = defaultdict(list)
    in_order = sorted(waiting, key=lambda run: run.place)
    for run in in_order:
        by_queue[run.queue].append(run)
    _reserve(rooms, in_order, reserve_after)
    assignments: list[Assignment] = []
    # Each agent's first choice before any agent's second one.
    for rank in range(max((len(offer.queues) for offer in offers), default=0)):
        at_rank: dict[str, list[_Room]] = defaultdict(list)
        for room in rooms:
            if rank < len(room.offer.queues):
                at_rank[room.offer.queues[rank]].append(room)
        for queue, servers in at_rank.items():
            left: list[WaitingRun] = []
            for run in by_queue[queue]:
                best = _best(servers, run)
                if best is None:
                    left.append(run)
                else:
                    assignments.append(Assignment(run.run, best.offer.session, best.take(run.shape)))
            by_queue[queue] = left
    return assignments


def _best(rooms: Sequence[_Room], run: WaitingRun) -> _Room | None:
    """Choose the tightest fit in GPUs, so that large gaps stay whole; then the one with the most slots."""
    fitting = (room for room in rooms if room.takes(run))
    return min(fitting, key=lambda room: (len(room.gpus), -room.slots), default=None)


def _reserve(rooms: Sequence[_Room], in_order: Sequence[WaitingRun], reserve_after: timedelta) -> None:
    """Reserve an agent for the first run of each (queue, priority) that fits nowhere now and has aged."""
    passed: set[tuple[str, int]] = set()
    for run in in_order:
        lane = (run.queue, run.priority)
        if run.shape == 0 or lane in passed:
            continue
        servers = [
            room for room in rooms if run.queue in room.offer.queues and room.offer.total_gpus >= run.shape
        ]
        if not servers or any(room.has_place(run) for room in servers):
            continue
        passed.add(lane)
        unreserved = [room for room in servers if room.reserved_for is None]
        if unreserved and run.waited >= reserve_after:
            closest = max(unreserved, key=lambda room: (len(room.gpus), room.slots))
            closest.reserved_for = run
