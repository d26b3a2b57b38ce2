"""Handing out, without input and output: who can take runs, where runs may wait, and rounds of claims.

A round costs what it hands out, however many sessions are idle or busy: sessions come to be considered when
they get credits and go when they have none, and lanes are searched only where runs may have come.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from towline_queue.core.leases import Claimed
from towline_queue.core.matching import (
    MAX_BATCH,
    Lane,
    Offer,
    Place,
    WaitingRun,
    lanes,
    match,
    places,
    spread,
)
from towline_queue.core.session_events import Granted
from towline_queue.core.session_protocol import SessionProtocol
from towline_queue.core.session_states import Phase

__all__ = ["Dispatch", "HandedOut", "Round", "Search"]

_FIRST_ASK: Final = 2
"""Runs asked for where nobody knows how many wait; while all are found, the next round asks for more.

Where fewer are found, the next ones ask for less step by step: bursts come with single runs between them.
"""

_MOST_CONSIDERED: Final = 64
"""Sessions among which places for one lane are chosen: enough for a good choice that is made fast."""


_MOST_QUEUES: Final = 4096
"""Queues without sessions that are remembered, with the runs that may wait there."""


class Search(NamedTuple):
    """A lane to be searched for waiting runs.

    Attributes:
        lane: The lane.
        most: Runs that could be handed out; 0: it is looked at for a run that is being starved.
        anew: Whether runs may wait at places before those where some were found lately.
    """

    lane: Lane
    most: int
    anew: bool


@dataclass(frozen=True)
class HandedOut:
    """What came of a round.

    Attributes:
        claimed: The leases made.
        found: How many of them are of which lane.
        refused: Sessions that could not have a place they were chosen for: the database knows better.
        dry: Lanes that were searched in which no run is left.
        held: Lanes in which none is left but for those that somebody else holds, and may not take.
    """

    claimed: Sequence[Claimed] = ()
    found: Mapping[Lane, int] = field(default_factory=dict)
    refused: frozenset[UUID] = frozenset()
    dry: frozenset[Lane] = frozenset()
    held: frozenset[Lane] = frozenset()


@dataclass
class _Servers:
    """The sessions of one queue that may have credits, and how many of them have how many GPUs."""

    sessions: dict[UUID, SessionProtocol] = field(default_factory=dict)
    sizes: Counter[int] = field(default_factory=Counter)


@dataclass
class _Hints:
    """Where runs of one queue may wait: shape → whether some may wait at old places.

    All shapes from `beyond` on may have some too; with `anew`, at old places.
    """

    shapes: dict[int, bool] = field(default_factory=dict)
    beyond: int | None = None
    anew: bool = False


class Dispatch:
    """Knows the sessions of a process that may take runs, and the lanes that may have some.

    Args:
        reserve_after: How long a run that fits nowhere yet is passed by smaller ones at most.
    """

    def __init__(self, *, reserve_after: timedelta) -> None:
        self._reserve_after = reserve_after
        self._servers: dict[str, _Servers] = defaultdict(_Servers)
        self._hints: dict[str, _Hints] = {}
        self._asks: dict[Lane, int] = {}

    # What is told

    def can_take(self, session: SessionProtocol) -> None:
        """Consider a session that has got credits; one that has none, or is closed, is left out later."""
        for queue in session.queues:
            if queue not in self._hints:
                self.may_wait(queue)
            servers = self._servers[queue]
            if session.key.id not in servers.sessions:
                servers.sessions[session.key.id] = session
                servers.sizes[session.gpus] += 1

    def may_wait(self, queue: str, shape: int | None = None) -> None:
        """Search a queue for runs that are new, of one shape; None: of any, and old ones too."""
        hints = self._hints.setdefault(queue, _Hints())
        if shape is not None:
            hints.shapes.setdefault(shape, False)
        else:
            hints.shapes, hints.beyond, hints.anew = {}, 0, True

    def look_everywhere(self) -> None:
        """Search all queues that sessions with credits serve, and leave out sessions that have none."""
        sessions = {id_: one for servers in self._servers.values() for id_, one in servers.sessions.items()}
        for session in sessions.values():
            if not session.takes_runs:
                self._forget(session)
        if len(self._hints) > _MOST_QUEUES:
            self._hints = {}
        for queue in self._servers:
            self.may_wait(queue)

    def has_room(self, queue: str) -> bool:
        """Tell whether a session may have credits for runs of a queue."""
        return queue in self._servers

    # Rounds

    def begin(self, now_s: float) -> "Round | None":
        """Begin a round; None: nobody can take anything that may be waiting. One at a time.

        Args:
            now_s: As in `SessionProtocol.handle`.
        """
        wanted = self._searchable()
        if not wanted:
            return None
        if sum(len(shapes) for shapes in wanted.values()) == 1:
            ((queue, shapes),) = wanted.items()
            return self._one_lane(Lane(queue, *shapes), now_s)
        return self._many_lanes(wanted, now_s)

    def begin_for(self, lane: Lane, now_s: float) -> "Round | None":
        """Begin a round for a run that nobody has stored yet.

        None: another run may go before it, as far as is known here, or nobody can take it.

        Args:
            lane: Where it would wait.
            now_s: As in `SessionProtocol.handle`.
        """
        if lane.queue not in self._servers or self._searchable():
            return None
        offers = self._fitting(lane, now_s)
        return self._round(offers, [Search(lane, 1, anew=False)]) if offers else None

    def _searchable(self) -> dict[str, dict[int, bool]]:
        """Return the queues, and of each the shapes, that may have runs which a session could take."""
        queues = [queue for queue in self._hints if queue in self._servers]
        return {queue: shapes for queue in queues if (shapes := self._wanted(queue))}

    def _wanted(self, queue: str) -> dict[int, bool]:
        """Return the shapes to be searched that sessions of the queue have GPUs for; see `_Hints.shapes`."""
        hints, largest = self._hints[queue], max(self._servers[queue].sizes)
        found = {shape: anew for shape, anew in hints.shapes.items() if shape <= largest}
        if hints.beyond is not None:
            found |= dict.fromkeys(range(hints.beyond, largest + 1), hints.anew)
        return found

    def _one_lane(self, lane: Lane, now_s: float) -> "Round | None":
        """Begin a round for the only lane that may have runs: it is known what goes where without a look."""
        offers = self._fitting(lane, now_s)
        room = sum(offer.fitting(lane.shape) for offer in offers)
        most = min(room, self._asks.get(lane, _FIRST_ASK))
        return self._round(offers, [Search(lane, most, self._pop(lane))]) if most else None

    def _many_lanes(self, wanted: Mapping[str, Mapping[int, bool]], now_s: float) -> "Round | None":
        sessions = {
            id_: session for queue in wanted for id_, session in self._servers[queue].sessions.items()
        }
        offers = [offer for one in sessions.values() if (offer := self._offer(one, now_s)) is not None]
        searches = {
            lane: most for lane, most in lanes(offers).items() if lane.shape in wanted.get(lane.queue, ())
        }
        if not any(searches.values()):
            return None
        return self._round(offers, [Search(lane, most, self._pop(lane)) for lane, most in searches.items()])

    def _round(self, offers: Sequence[Offer], searches: Sequence[Search]) -> "Round":
        sessions = {offer.session: self._servers[offer.queues[0]].sessions[offer.session] for offer in offers}
        return Round(self, offers, searches, sessions, self._reserve_after)

    def _fitting(self, lane: Lane, now_s: float) -> list[Offer]:
        """Return what sessions could take of which a run of the lane is one, as many as are considered."""
        offers: list[Offer] = []
        for session in list(self._servers[lane.queue].sessions.values()):
            offer = self._offer(session, now_s)
            if offer is not None and offer.fitting(lane.shape):
                offers.append(offer)
                if len(offers) == _MOST_CONSIDERED:
                    break
        return offers

    def _offer(self, session: SessionProtocol, now_s: float) -> Offer | None:
        """Return what a session could take; one that has no credits is not considered until it gets some."""
        credits = session.credits
        if not session.takes_runs or not (credits.free_slots or credits.free_gpus):
            self._forget(session)
            return None
        return session.offer(now_s)

    def _forget(self, session: SessionProtocol) -> None:
        for queue in session.queues:
            servers = self._servers.get(queue)
            if servers is None or servers.sessions.pop(session.key.id, None) is None:
                continue
            servers.sizes[session.gpus] -= 1
            if not servers.sizes[session.gpus]:
                del servers.sizes[session.gpus]
            if not servers.sessions:
                del self._servers[queue]

    def _pop(self, lane: Lane) -> bool:
        """Take a lane out of those to be searched; return whether old places of it are to be searched."""
        hints = self._hints[lane.queue]
        if hints.beyond is not None and lane.shape >= hints.beyond:
            hints.shapes |= dict.fromkeys(range(hints.beyond, lane.shape + 1), hints.anew)
            hints.beyond = lane.shape + 1
        return hints.shapes.pop(lane.shape)

    def over(self, searches: Iterable[Search], handed_out: HandedOut | None) -> None:
        """End a round: what was not searched to its end is to be searched again; None: nobody knows."""
        found = handed_out.found if handed_out is not None else {}
        for lane, most, anew in searches:
            if handed_out is not None and lane in handed_out.dry:
                before = self._asks.get(lane, _FIRST_ASK)
                self._asks[lane] = max(_FIRST_ASK, 2 * found.get(lane, 0), before // 4)
                continue
            hints = self._hints.setdefault(lane.queue, _Hints())
            again = handed_out is None or lane in handed_out.held
            hints.shapes[lane.shape] = hints.shapes.get(lane.shape, False) or (again and anew)
            if found.get(lane, 0) >= most:
                self._asks[lane] = min(4 * most, MAX_BATCH)


class Round:
    """One round: its parts go into `LeaseStore.hand_out`, and then it is `ended` or `failed`.

    Credits are held while the claim is made, so that a heartbeat that comes meanwhile does not free them:
    it cannot account for grants that nobody has heard of.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        offers: Sequence[Offer],
        searches: Sequence[Search],
        sessions: Mapping[UUID, SessionProtocol],
        reserve_after: timedelta,
    ) -> None:
        self.offers = offers
        """What the sessions could take."""
        self.searches = searches
        """The lanes to be searched. A single one needs no look before the claim."""
        self._dispatch = dispatch
        self._sessions = sessions
        self._reserve_after = reserve_after

    def choose(self, free: Sequence[Offer], waiting: Sequence[WaitingRun] | None) -> list[Place]:
        """Choose places, and hold the credits that they use; see `store.Choose`."""
        # One may have ended meanwhile.
        free = [offer for offer in free if self._sessions[offer.session].phase is Phase.OPEN]
        if waiting is None:
            ((lane, most, _),) = self.searches
            found = spread([offer for offer in free if lane.queue in offer.queues], lane, most)
        else:
            agents = {offer.session: offer.agent for offer in free}
            found = places(match(free, waiting, reserve_after=self._reserve_after), waiting, agents)
        for place in found:
            self._sessions[place.session].credits.hold(place.slots, place.gpu_ids)
        return found

    def ended(self, handed_out: HandedOut) -> dict[UUID, Granted]:
        """Take what was committed and return what each session is to be told.

        A session that could not have what was chosen for it gets nothing until its agent speaks again:
        the database knows better than its last word.
        """
        self._release()
        granted: dict[UUID, list[tuple[Claimed, int]]] = defaultdict(list)
        for lease in handed_out.claimed:
            granted[lease.session].append((lease, self._sessions[lease.session].credits.take(lease.gpu_ids)))
        for session in handed_out.refused:
            self._sessions[session].credits.distrust()
        self._dispatch.over(self.searches, handed_out)
        return {session: Granted(leases) for session, leases in granted.items()}

    def failed(self) -> None:
        """Give back what was held: nothing was claimed, as far as anybody knows."""
        self._release()
        self._dispatch.over(self.searches, None)

    def _release(self) -> None:
        for session in self._sessions.values():
            session.credits.release()
