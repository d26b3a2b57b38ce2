"""One replica of the queue service in a model: the real session and dispatch cores over a shared store."""

import random
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from towline.errors import TowlineError, Unavailable
from towline.v1 import leases_pb2
from towline_queue.core import lease_messages
from towline_queue.core import session_events as on
from towline_queue.core.dispatch import Dispatch, HandedOut
from towline_queue.core.health import Health
from towline_queue.core.reports import Report, SaidBy
from towline_queue.core.session_protocol import SessionProtocol
from towline_queue.core.session_states import Phase
from towline_queue.store import LeaseStore
from towline_testing.model_network import Connection, Up
from towline_testing.model_timeline import Process, Timeline

T = TypeVar("T")

_REPLY_WITHIN = timedelta(seconds=10)
_RESERVE_AFTER = timedelta(seconds=30)
_SWEEP_EVERY_S = 1.0
_RETRY_S = 0.5


def now_or_never(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    work.close()
    raise AssertionError("it waited")


class _Peer:
    """A stream, its session, and what came meanwhile."""

    def __init__(self, connection: Connection, session: UUID) -> None:
        self.connection = connection
        self.protocol = SessionProtocol(session)
        self.inbox: list[Up] = []
        self.admitted = False
        """Whether it is among the process's open sessions."""
        self.ended = False
        """The agent has said good-bye."""


class Replica(Process):
    """Carries out what the cores ask for; its calls to the store take time before and after their commit.

    Args:
        timeline: Virtual time.
        chance: For delays and ids.
        store: Shared with the other replicas.
    """

    def __init__(self, timeline: Timeline, chance: random.Random, store: LeaseStore, name: str) -> None:
        super().__init__(timeline)
        self.name = name
        self.store = store
        self.others: list[Replica] = []
        self.database_away = False
        self.lose_replies = 0
        """How many of the next commits nobody will be told of."""
        self._chance = chance
        self._peers: dict[Connection, _Peer] = {}

    def begin(self) -> None:
        self.alive = True
        self._peers = {}
        self._id = self._uuid()
        self._health = Health(stall=timedelta(seconds=10))
        self._dispatch = Dispatch(reserve_after=_RESERVE_AFTER)
        self._dispatching = self._again = False
        self.timeline.note("{} begins", self.name)
        self.later(self._chance.random(), self._sweep)

    def die(self) -> None:
        self.timeline.note("{} dies", self.name)
        peers, self._peers = self._peers, {}
        self.end()
        for connection in peers:
            connection.reset()

    def stop_in_order(self) -> None:
        """Say GoAway on every stream, and end."""
        self.timeline.note("{} stops in order", self.name)
        for peer in list(self._peers.values()):
            self._tell(peer, on.ServiceStops(timedelta(milliseconds=200), timedelta(seconds=2)))
        self.end()

    # The network

    def takes(self, connection: Connection) -> bool:
        """Whether a call gets through."""
        if not self.alive:
            return False
        self._peers[connection] = _Peer(connection, self._uuid())
        return True

    def hears(self, connection: Connection, message: Up) -> None:
        self.later(0.0, lambda: self._hear(connection, message))

    def _hear(self, connection: Connection, message: Up) -> None:
        peer = self._peers.get(connection)
        if peer is not None:
            peer.inbox.append(message)
            self._read(peer)

    def finds_ended(self, connection: Connection, *, in_order: bool) -> None:
        self.later(0.0, lambda: self._end_of(connection, in_order=in_order))

    def _end_of(self, connection: Connection, *, in_order: bool) -> None:
        peer = self._peers.get(connection)
        if peer is None:
            return
        if in_order:
            peer.ended = True
            self._read(peer)
        else:
            self._tell(peer, on.Broken())
            self._peers.pop(connection, None)

    def _read(self, peer: _Peer) -> None:
        """Handle what has come, unless a call to the store is under way."""
        if peer.protocol.busy or peer.protocol.phase is Phase.CLOSED:
            return
        messages, peer.inbox = peer.inbox, []
        if messages and peer.protocol.phase is Phase.OPENING:
            peer.inbox = messages[1:]
            self._tell(peer, on.Hello(messages[0]))
        elif messages:
            self._tell(peer, on.Said(messages))
        elif peer.ended and peer.protocol.phase is Phase.OPEN:
            self._tell(peer, on.Goodbye())

    def _tell(self, peer: _Peer, event: on.Event) -> None:
        for effect in peer.protocol.handle(event, self.timeline.now):
            match effect:
                case on.Send(message):
                    peer.connection.send_down(message)
                case on.WakeDispatcher():
                    self._dispatch.can_take(peer.protocol)
                    self.wake()
                case on.Close(error):
                    self.timeline.note(
                        "{} ends a session of {}: {}", self.name, peer.protocol.key.agent, error
                    )
                    self._peers.pop(peer.connection, None)
                    peer.connection.close()
                case _:
                    self._call(peer, effect)

    # The store

    def _call(self, peer: _Peer, call: on.StoreCall) -> None:
        # Renewals and reports wait through an outage, and are repeated if nobody knows what became of them.
        patient = isinstance(call, on.Commit | on.Renew)

        def answered(answer: on.StoreAnswer) -> None:
            self._tell(peer, answer)
            if isinstance(answer, on.Opened):
                self._admit(peer)
            self._read(peer)

        def failed(error: TowlineError) -> None:
            if patient:
                self.later(_RETRY_S, lambda: self._transact(lambda: self._carry_out(call), answered, failed))
            else:
                answered(on.Failed(error))

        self._transact(lambda: self._carry_out(call), answered, failed)

    def _carry_out(self, call: on.StoreCall) -> on.StoreAnswer:
        store = self.store
        match call:
            case on.Open(opening):
                (opened,) = now_or_never(store.open_sessions([opening]))
                return on.Failed(opened) if isinstance(opened, TowlineError) else on.Opened(opened)
            case on.Commit(agent, report):
                done = now_or_never(store.carry_out([SaidBy(agent, report)]))
                if done.ended:
                    self._wake_all()
                return on.Reported(done.answers[0])
            case on.Renew(session, look):
                return on.Renewed(now_or_never(store.renew([session], look=look))[0])
            case on.Settle(session, inventory):
                return on.Settled(now_or_never(store.settle(session, inventory)))
            case on.Drain(session):
                now_or_never(store.drain(session))
                return on.Drained()
            case on.Withhold(session, why):
                now_or_never(store.withhold(session, why))
                return on.Withheld()
            case on.Leave(session):
                now_or_never(store.leave(session))
                return on.Left()

    def _transact(
        self, work: Callable[[], T], then: Callable[[T], None], failed: Callable[[TowlineError], None]
    ) -> None:
        """Commit something after a while, and go on after another; the process may die between."""

        def commit() -> None:
            if self.database_away:
                failed(_away())
                return
            try:
                result = work()
            except TowlineError as error:
                failure = error
                self.later(self._delay(), lambda: failed(failure))
                return
            if self.lose_replies:
                self.lose_replies -= 1
                self.timeline.note("{} never hears of a commit", self.name)
                failed(_away())
                return
            self.later(self._delay(), lambda: then(result))

        self.later(self._delay(), commit)

    # What runs beside the sessions

    def _admit(self, peer: _Peer) -> None:
        """Register an open session; of two with one agent, the older one ends."""
        if peer.connection not in self._peers:
            return
        for other in self._admitted():
            if other.protocol.key.agent != peer.protocol.key.agent:
                continue
            if other.protocol.epoch > peer.protocol.epoch:
                self._tell(peer, on.Superseded())
                return
            self._tell(other, on.Superseded())
        peer.admitted = True

    def _admitted(self) -> list[_Peer]:
        return [peer for peer in self._peers.values() if peer.admitted]

    def wake(self) -> None:
        """Hand out what fits now."""
        if self._dispatching or not self.alive:
            self._again = True
            return
        round_ = self._dispatch.begin(self.timeline.now)
        if round_ is None:
            return
        self._dispatching, self._again = True, False

        def handed_out(what: HandedOut) -> None:
            granted = round_.ended(what)
            for peer in self._admitted():
                if peer.protocol.key.id in granted:
                    self._tell(peer, granted[peer.protocol.key.id])
            over(go_on=bool(what.claimed or what.refused))

        def failed(_: TowlineError) -> None:
            round_.failed()
            over(go_on=False)

        def over(*, go_on: bool) -> None:
            self._dispatching = False
            if self._again or go_on:
                self.wake()

        self._transact(
            lambda: now_or_never(self.store.hand_out(round_.offers, round_.searches, round_.choose)),
            handed_out,
            failed,
        )

    def hear_of_runs(self, queue: str, shape: int) -> None:
        """Hand out what fits now, new runs among it."""
        if self.alive:
            self._dispatch.may_wait(queue, shape)
        self.wake()

    def look(self) -> None:
        """Hand out what fits now, wherever it waits."""
        if self.alive:
            self._dispatch.look_everywhere()
        self.wake()

    def _wake_all(self) -> None:
        for replica in (self, *self.others):
            replica.later(0.02, replica.look)

    def _sweep(self) -> None:
        self.later(_SWEEP_EVERY_S * (0.75 + self._chance.random() / 2), self._sweep)
        self.look()

        def failed(_: TowlineError) -> None:
            self._health.failed()

        self._transact(self.sweep, lambda _: None, failed)

    def sweep(self) -> None:
        """Do what time demands, as the reaper does."""
        store = self.store
        leads = now_or_never(store.lead("upkeep", self._id, timedelta(seconds=5)))
        healthy_for = self._health.seen_at(self.timeline.now)
        if not leads:
            return
        ended = [
            *now_or_never(store.take_back_lost(healthy_for)),
            *now_or_never(store.take_back_unanswered(_REPLY_WITHIN)),
        ]
        for one in ended:
            self.timeline.note("{} takes back {} epoch {}", self.name, *one.key)
        ready = now_or_never(store.promote())
        now_or_never(store.expire_waiting())
        preempted = now_or_never(store.preempt_overdue_drains())
        now_or_never(store.forget_sessions())
        if ended or ready:
            self._wake_all()
        for replica in (self, *self.others):
            replica.push_stops(preempted)

    def push_stops(self, runs: Iterable[str]) -> None:
        """Tell sessions at once of attempts to be stopped."""
        names = list(runs)
        if not names or self.database_away or not self.alive:
            return
        for lease in now_or_never(self.store.stops(names)):
            for peer in self._admitted():
                if peer.protocol.key.id == lease.session:
                    self._tell(peer, on.StopWanted(lease))

    def finish_leases(
        self,
        request: leases_pb2.FinishLeasesRequest,
        then: Callable[[leases_pb2.FinishLeasesResponse], None],
    ) -> None:
        """Serve the unary call: results without a session."""
        report = Report(results=lease_messages.read_finishes(request.finishes))

        def commit() -> leases_pb2.FinishLeasesResponse:
            done = now_or_never(self.store.carry_out([SaidBy("", report)]))
            if done.ended:
                self._wake_all()
            response = leases_pb2.FinishLeasesResponse()
            lease_messages.confirm(response, done.answers[0].results)
            return response

        if self.alive:
            self._transact(commit, then, lambda _: None)

    def _delay(self) -> float:
        return self._chance.choice((0.0, 0.001, 0.001, 0.05, 1.0))

    def _uuid(self) -> UUID:
        return UUID(int=self._chance.getrandbits(128), version=4)


def _away() -> TowlineError:
    return Unavailable("PostgreSQL is away", reason="DATABASE_UNAVAILABLE")
