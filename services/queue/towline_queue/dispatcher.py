"""Hands waiting runs to this process's sessions as soon as both are there.

One coroutine claims for all sessions in one transaction at a time: credits and runs that come meanwhile
are the next one's. It wakes on signals, and looks everywhere by itself once per `POLL`.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from towline.errors import TowlineError
from towline_queue.connections import Connections
from towline_queue.core.dispatch import Dispatch, HandedOut, Round
from towline_queue.core.leases import Claimed
from towline_queue.core.matching import Lane, Offer
from towline_queue.signals import POLL, Key, Signals, Topic, Watch, parse_ready_name
from towline_queue.store import Choose, LeaseStore

__all__ = ["Dispatcher", "Room"]

_log = logging.getLogger(__name__)
_PAUSE_S: Final = 0.5
_LOOK_SHARE: Final = 0.01
"""Part of the time that looking everywhere may take: it steps over rows that nobody can clear away yet."""
_HELD_S: Final = 0.01
"""First rest before runs that others held are looked for again; after one in vain it is twice as long."""
_LONGEST_REST_S: Final = 5.0
"""However long a look took, on a machine that is busy with something else, the next one comes after this."""


@dataclass
class Room:
    """Room for a run that is being stored.

    Attributes:
        offers: Who could have it; none: it is to wait.
        choose: Chooses one of them for it, as in `LeaseStore.hand_out`.
        claimed: The lease that was made of it; None: it waits.
    """

    offers: Sequence[Offer] = ()
    choose: Choose = lambda *_: ()
    claimed: Claimed | None = None


class Dispatcher:
    """Matches waiting runs with the credits of open sessions.

    Args:
        store: The database.
        signals: Wakes it, and hears what it hands out.
        connections: The sessions.
        reserve_after: How long a run that fits nowhere yet is passed by smaller ones at most.
    """

    def __init__(
        self, store: LeaseStore, signals: Signals, connections: Connections, *, reserve_after: timedelta
    ) -> None:
        self._store = store
        self._signals = signals
        self._connections = connections
        self._dispatch = Dispatch(reserve_after=reserve_after)
        self._turn = asyncio.Lock()
        """Held for as long as a round is under way."""
        self._look_at_s = float("-inf")
        """When to look everywhere again."""
        self._held_rest_s: float | None = None
        """How long to leave lanes alone in which others hold all that is left; None: none is known."""

    def has_room(self, queue: str) -> bool:
        """Tell whether an agent of this process could probably take a run of a queue."""
        return self._dispatch.has_room(queue)

    @asynccontextmanager
    async def room_for(self, lane: Lane) -> AsyncIterator[Room]:
        """Give room for a run of a lane while the block stores it; then tell the session that was given it.

        There is some only where no run is known that may go before it.
        """
        if self._turn.locked():
            yield Room()
            return
        async with self._turn:
            round_ = self._dispatch.begin_for(lane, time.monotonic())
            if round_ is None:
                yield Room()
                return
            room = Room(round_.offers, round_.choose)
            try:
                yield room
            except BaseException:
                round_.failed()
                raise
            self._tell(round_, HandedOut([room.claimed] if room.claimed else [], dry=frozenset({lane})))

    async def run(self) -> None:
        """Hand out runs until cancelled."""
        with self._signals.watching(Key(Topic.READY), Key(Topic.CREDITS)) as watch:
            while True:
                try:
                    go_on = await self._hand_out(watch)
                except TowlineError as error:
                    _log.warning("handing out failed, trying again: %s", error.message)
                    await _pause()
                except Exception:
                    # The one task that everything waits for must not die of one bad row or deadlock.
                    _log.exception("handing out failed, trying again")
                    await _pause()
                else:
                    if not go_on:
                        rest = max(self._look_at_s - time.monotonic(), 0)
                        if self._held_rest_s is not None:
                            rest = min(rest, self._held_rest_s)
                        await watch.wait(timedelta(seconds=rest))

    async def _hand_out(self, watch: Watch) -> bool:
        """Do one round with what is known now; return whether there may be more to do at once."""
        self._learn(watch)
        began_s = time.monotonic()
        everywhere = began_s >= self._look_at_s
        if everywhere:
            self._dispatch.look_everywhere()
            self._look_at_s = began_s + POLL.total_seconds()
        async with self._turn:
            round_ = self._dispatch.begin(began_s)
            if round_ is None:
                return False
            go_on = await self._carry_out(round_)
        if everywhere:
            took_s = time.monotonic() - began_s
            rest_s = max(POLL.total_seconds(), min(took_s / _LOOK_SHARE, _LONGEST_REST_S))
            self._look_at_s = began_s + rest_s
        return go_on

    def _learn(self, watch: Watch) -> None:
        """Take in what was announced."""
        agents = watch.take_names(Topic.CREDITS)
        sessions = self._connections if agents is None else map(self._connections.of_agent, agents)
        for session in sessions:
            if session is not None:
                self._dispatch.can_take(session.protocol)
        ready = watch.take_names(Topic.READY)
        if ready is None:
            self._dispatch.look_everywhere()
        for name in ready or ():
            self._dispatch.may_wait(*parse_ready_name(name))

    async def _carry_out(self, round_: Round) -> bool:
        try:
            handed_out = await self._store.hand_out(round_.offers, round_.searches, round_.choose)
        except BaseException:
            round_.failed()
            raise
        self._tell(round_, handed_out)
        go_on = bool(handed_out.claimed or handed_out.refused)
        if go_on or not handed_out.held:
            self._held_rest_s = None
        else:
            self._held_rest_s = 2 * self._held_rest_s if self._held_rest_s else _HELD_S
        return go_on

    def _tell(self, round_: Round, handed_out: HandedOut) -> None:
        """End a round, and tell sessions what they were given."""
        for session_id, granted in round_.ended(handed_out).items():
            session = self._connections.get(session_id)
            if session is not None:  # else its agent's next inventory settles what it was given
                session.handle(granted)
        self._signals.runs_changed([lease.key.run for lease in handed_out.claimed])


async def _pause() -> None:
    await asyncio.sleep(_PAUSE_S * (0.5 + random.random()))  # noqa: S311 - jitter
