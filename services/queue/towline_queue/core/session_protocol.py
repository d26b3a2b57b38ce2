"""One agent's session, without input and output: (state, event, now) → (state, effects).

Promises leave only after what they promise is durable: `Renewed` answers a committed renewal, a `Grant`
a committed claim, a `Confirm` a committed result. A stale epoch is answered per message and never ends
the stream. Whatever ends a stream changes no lease.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, assert_never
from uuid import UUID

from towline.errors import Aborted, InvalidArgument, ResourceExhausted, TowlineError, Unavailable
from towline.v1 import leases_pb2
from towline_queue.core import lease_messages, session_states
from towline_queue.core import session_events as on
from towline_queue.core.credits import Credits
from towline_queue.core.heartbeats import Heartbeats, Pace
from towline_queue.core.lease_ids import AttemptKey, lease_id
from towline_queue.core.lease_policy import DEFAULT, outlasts
from towline_queue.core.leases import Claimed, LiveLease, Opened, Opening, Reconciled, Renewal, SessionKey
from towline_queue.core.matching import Offer
from towline_queue.core.reports import FinishVerdict, ReportAnswer
from towline_queue.core.session_events import Close, Effect, Event, Send, StoreCall, WakeDispatcher
from towline_queue.core.session_states import Phase, SessionMove
from towline_queue.core.sessions import Inventory, VerdictKind, lease_set_digest

__all__ = ["SessionProtocol", "service_stops"]

_NOTHING_SAID: Final = lease_messages.Said()
_NO_RENEWAL: Final = Renewal(draining=False, leases=())
_FIRST_REST_S: Final = 1.0
_LONGEST_REST_S: Final = 30.0
_SOON: Final = timedelta(milliseconds=500)
_STOPS: Final = frozenset({VerdictKind.STOP_STALE, VerdictKind.STOP_UNKNOWN, VerdictKind.FINISH_CONFIRMED})


class SessionProtocol:
    """One session, from its Hello to its end.

    Args:
        session: Its id.
        pace: How often the sessions of the process send heartbeats; None: as their policies say.
        read_uuid: See `lease_messages.read_messages`.
    """

    __slots__ = (
        "_beats",
        "_call",
        "_calls",
        "_draining",
        "_grant_seqs",
        "_known",
        "_lost",
        "_policy",
        "_read_uuid",
        "_refusals",
        "_renewal",
        "_rests_until_s",
        "_results",
        "_said",
        "_wake",
        "credits",
        "epoch",
        "gpus",
        "key",
        "phase",
        "queues",
    )

    def __init__(
        self, session: UUID, pace: Pace | None = None, read_uuid: Callable[[str], UUID] = UUID
    ) -> None:
        self.phase = Phase.OPENING
        self.key = SessionKey(session, "")
        """Its id and its agent, "agents/{agent}"; empty until it said Hello."""
        self.epoch = 0
        """Of the session, once it is open: rises with each session of an agent."""
        self.credits = Credits()
        """What the agent could take; the dispatcher spends them before it claims."""
        self._policy = DEFAULT
        self._beats = Heartbeats(pace or Pace())
        self._read_uuid = read_uuid
        self.queues: tuple[str, ...] = ()
        """Queues that its agent serves, the preferred ones first."""
        self.gpus = 0
        """GPUs that its agent has."""
        self._grant_seqs: dict[AttemptKey, int] = {}
        self._lost: set[str] = set()
        self._draining = False
        self._refusals = 0
        self._rests_until_s = float("-inf")
        # What is being carried out
        self._calls: list[StoreCall] = []
        self._call: StoreCall | None = None
        self._said = _NOTHING_SAID
        self._results: Sequence[tuple[UUID, FinishVerdict]] = ()
        self._known: dict[AttemptKey, int] = {}
        self._renewal = _NO_RENEWAL
        self._wake: list[Effect] = []

    @property
    def busy(self) -> bool:
        """Whether a call to the store is under way; what the agent says meanwhile has to wait."""
        return self._call is not None

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Take an event and return what to do, in order; at most one of it calls the store, the last.

        Args:
            event: What happened. Once the session is closed, nothing matters any more.
            now_s: Seconds by a clock that does not jump.
        """
        if self.phase is Phase.CLOSED:
            return []
        try:
            if isinstance(event, on.AgentEvent):
                return self._hear(event, now_s)
            if isinstance(event, on.StoreAnswer):
                return self._resume(event, now_s)
            return self._obey(event)
        except InvalidArgument as error:
            return self._fail(error)

    def _hear(self, event: on.AgentEvent, now_s: float) -> list[Effect]:
        match event:
            case on.Hello(message):
                return self._introduce(message)
            case on.Said(messages):
                return self._take(messages, now_s)
            case on.Goodbye():
                self._go(session_states.GOODBYE)
                return self._begin([on.Leave(self.key)])
            case on.Broken():
                return self._close(session_states.BREAK, None)
            case _:
                assert_never(event)

    def _resume(self, event: on.StoreAnswer, now_s: float) -> list[Effect]:
        match event:
            case on.Failed(error):
                return self._fail(error)
            case on.Left():
                return self._close(session_states.LEFT, None)
            case on.Opened(opened):
                effects = self._open(opened)
            case on.Reported(answer):
                effects = self._answer(answer, now_s)
            case on.Renewed(renewal):
                effects = self._renewed(renewal, now_s)
            case on.Settled(reconciled):
                effects = self._settled(reconciled)
            case on.Drained():
                effects = []
            case on.Withheld():
                effects, self._wake = self._wake, []
            case _:
                assert_never(event)
        return effects + (self._next() if self.phase is not Phase.CLOSED else [])

    def _obey(self, event: on.ProcessEvent) -> list[Effect]:
        match event:
            case on.Granted(leases):
                return self._grant(leases)
            case on.StopWanted(lease):
                return [_send(cancels=_cancels([lease]))]
            case on.DrainWanted():
                return self._tell_drain()
            case on.Superseded():
                return self._superseded()
            case on.OutboxFull():
                return self._close(session_states.OVERFLOW, _outbox_full(self.key.agent))
            case on.ServiceStops(reconnect_after, jitter):
                return self._say_goodbye(reconnect_after, jitter)
            case _:
                assert_never(event)

    # Calls to the store, one at a time

    def _begin(self, calls: Sequence[StoreCall]) -> list[Effect]:
        if self._call is not None:
            raise RuntimeError(f"{self._call} is still under way")
        self._calls.extend(calls)
        return self._next()

    def _next(self) -> list[Effect]:
        self._call = self._calls.pop(0) if self._calls else None
        if isinstance(self._call, on.Renew) and self._call.look:
            # What is granted from here on may be committed after the renewal, so it cannot be missing in it.
            self._known = dict(self._grant_seqs)
        return [] if self._call is None else [self._call]

    # Opening

    def _introduce(self, message: leases_pb2.StreamLeasesRequest) -> list[Effect]:
        hello = lease_messages.read_hello(message)
        self.key = SessionKey(self.key.id, hello.newcomer.agent)
        self.queues = hello.queues
        self.gpus = hello.gpus
        return self._begin([on.Open(Opening(self.key.id, hello.newcomer, hello.queues, hello.inventory))])

    def _open(self, opened: Opened) -> list[Effect]:
        self._go(session_states.OPENED)
        self.epoch = opened.epoch
        self._policy = opened.policy
        outcome = opened.reconciled.outcome
        self._grant_seqs = dict.fromkeys(outcome.adopted, 0)
        welcome = leases_pb2.StreamLeasesResponse(
            welcome=leases_pb2.Welcome(
                session_id=str(self.key.id),
                session_epoch=opened.epoch,
                heartbeat_interval=lease_messages.duration(self._beats.begin(opened.policy)),
                verdicts=lease_messages.verdicts(outcome.verdicts),
                missing_queues=opened.missing_queues,
            )
        )
        if opened.draining:
            self._draining = True
            welcome.drain.SetInParent()
        return [Send(welcome)]

    # What the agent says

    def _take(self, messages: Sequence[leases_pb2.StreamLeasesRequest], now_s: float) -> list[Effect]:
        said = self._said = lease_messages.read_messages(messages, self._read_uuid)
        self._lost |= said.unknown
        calls: list[StoreCall] = []
        if said.report:
            calls.append(on.Commit(self.key.agent, said.report))
        if said.drain:
            self._draining = True
            calls.append(on.Drain(self.key))
        if said.heartbeat is not None:
            told = self._beats.last.withheld
            calls.append(self._beats.renew(self.key, said.heartbeat, now_s, alone=not calls))
            if said.heartbeat.withheld != told:
                calls.append(on.Withhold(self.key, lease_messages.withheld(said.heartbeat)))
        return self._begin(calls)

    def _answer(self, answer: ReportAnswer, now_s: float) -> list[Effect]:
        for key in answer.ended | answer.stale:
            self._grant_seqs.pop(key, None)
        self._lost |= {lease_id(key) for key in answer.stale}
        for reply in self._said.report.replies:
            if reply.accepted:
                self._refusals = 0
            else:
                self._rest(now_s)
        if any(isinstance(call, on.Renew) for call in self._calls):
            self._results = answer.results  # one message less: they go with what acknowledges the heartbeat
            return []
        if not answer.results:
            return []
        response = leases_pb2.StreamLeasesResponse()
        lease_messages.confirm(response, answer.results)
        return [Send(response)]

    def _renewed(self, renewal: Renewal | None, now_s: float) -> list[Effect]:
        if renewal is None:
            return self._superseded()
        beat = self._beats.last
        # Only now: before the commit a session that was silent would still be refused a claim.
        before = self.credits.free_slots, self.credits.free_gpus
        self.credits.told(
            beat.capacity_gen, beat.free_slots, frozenset(beat.free_gpu_ids), beat.grant_seq_seen
        )
        new = (self.credits.free_slots, self.credits.free_gpus) != before
        wake: list[Effect] = [WakeDispatcher()] if new else []
        if any(isinstance(call, on.Withhold) for call in self._calls):
            # Not while its row is written to: a claim passes over it then, and trusts its credits no more.
            self._wake, wake = wake, []
        self._find_lost(renewal, now_s)
        if beat.has_inventory:  # the answer waits until it is settled, and tells what came of it
            self._renewal = renewal
            inventory = Inventory(lease_messages.inventory(beat.inventory), speaks_for=self._heard_of())
            self._calls.append(on.Settle(self.key, inventory))
            return wake
        return [*self._acknowledge(renewal), *wake]

    def _settled(self, reconciled: Reconciled | None) -> list[Effect]:
        if reconciled is None:
            return self._superseded()
        for ended in reconciled.ended:
            self._grant_seqs.pop(ended.key, None)
        for key in reconciled.outcome.adopted:
            self._grant_seqs.setdefault(key, 0)
        self._lost |= {entry.lease_id for entry, verdict in reconciled.outcome.verdicts if verdict in _STOPS}
        return self._acknowledge(self._renewal)

    def _acknowledge(self, renewal: Renewal) -> list[Effect]:
        """Answer the heartbeat, whose renewal is committed, and tell what the agent does not know yet."""
        beat = self._beats.last
        response = leases_pb2.StreamLeasesResponse(
            renewed=leases_pb2.Renewed(ack_seq=beat.seq, lost_lease_ids=sorted(self._lost)),
            cancels=_cancels(renewal.leases or ()),
            inventory_wanted=not beat.has_inventory and self._differs(renewal),
        )
        lease_messages.confirm(response, self._results)
        self._lost.clear()
        self._results = ()
        interval = self._beats.news(waited=isinstance(self._call, on.Renew) and bool(self._call.within))
        if interval is not None:
            response.renewed.heartbeat_interval.CopyFrom(lease_messages.duration(interval))
        if renewal.draining and not self._draining:
            self._draining = True
            response.drain.SetInParent()
        return [Send(response)]

    def _find_lost(self, renewal: Renewal, now_s: float) -> None:
        """Note leases that this process granted or adopted, and that are gone without the agent's doing."""
        if renewal.leases is None:
            return
        alive = {lease.key for lease in renewal.leases}
        for key, seq in self._known.items():
            if key in alive or self._grant_seqs.pop(key, None) is None:
                continue
            self._lost.add(lease_id(key))
            if seq:  # granted here, and taken back since: most likely unanswered
                self._rest(now_s)

    def _differs(self, renewal: Renewal) -> bool:
        """Return whether the agent holds other leases than the database says, as far as it can know."""
        if renewal.leases is None or not self._beats.last.lease_set_digest:
            return False
        heard_of = self._heard_of()
        alive = [lease.key for lease in renewal.leases if lease.key in heard_of]
        return lease_set_digest(alive) != self._beats.last.lease_set_digest

    def _heard_of(self) -> set[AttemptKey]:
        """Return the leases that the agent had heard of when it sent the heartbeat that is being answered."""
        return {key for key, seq in self._grant_seqs.items() if seq <= self._beats.last.grant_seq_seen}

    # What the process wants

    @property
    def takes_runs(self) -> bool:
        """Whether it is open and its agent may get runs."""
        return self.phase is Phase.OPEN and not self._draining

    def offer(self, now_s: float) -> Offer:
        """Say what the agent could take now: nothing unless it is open, takes runs, and does not rest."""
        takes_runs = self.takes_runs
        free_slots = self.credits.free_slots if takes_runs and now_s >= self._rests_until_s else 0
        return Offer(
            session=self.key.id,
            agent=self.key.agent,
            queues=self.queues,
            free_slots=free_slots,
            free_gpus=self.credits.free_gpus,
            total_gpus=self.gpus if takes_runs else 0,
        )

    def _rest(self, now_s: float) -> None:
        """Give the agent no runs for a while, longer each time: it would refuse them too."""
        self._rests_until_s = now_s + min(_FIRST_REST_S * 2**self._refusals, _LONGEST_REST_S)
        self._refusals = min(self._refusals + 1, 10)

    def _grant(self, leases: Sequence[tuple[Claimed, int]]) -> list[Effect]:
        self._grant_seqs |= {claimed.key: seq for claimed, seq in leases}
        effects: list[Effect] = [Send(message) for message in lease_messages.grants(leases)]
        shortest = min(claimed.ttl for claimed, _ in leases)
        # Only what was changed since the Welcome: a session that opens anew would get the same again.
        if shortest < self._policy.lost_after and not outlasts(shortest, self._beats.interval):
            effects += self._new_terms()
        return effects

    def _tell_drain(self) -> list[Effect]:
        if self._draining:
            return []
        self._draining = True
        return [_send(drain=leases_pb2.Drain())]

    # The end

    def _fail(self, error: TowlineError) -> list[Effect]:
        opening = self.phase is Phase.OPENING
        return self._close(session_states.REFUSE if opening else session_states.FAIL, error)

    def _say_goodbye(self, reconnect_after: timedelta, jitter: timedelta) -> list[Effect]:
        go_away = lease_messages.go_away(
            "the queue service stops", reconnect_after=reconnect_after, jitter=jitter
        )
        return [_send(go_away=go_away), *self._close(session_states.STOP, service_stops())]

    def _new_terms(self) -> list[Effect]:
        """Have the agent connect again: a lease ends between two heartbeats as this session has them."""
        go_away = lease_messages.go_away(
            "the lease policy of a queue has changed", reconnect_after=timedelta(0), jitter=_SOON
        )
        return [_send(go_away=go_away), *self._close(session_states.RENEW_TERMS, None)]

    def _superseded(self) -> list[Effect]:
        error = Aborted(
            f"{self.key.agent} has opened a newer session; this one is over",
            reason="SESSION_SUPERSEDED",
            metadata={"agent": self.key.agent},
        )
        go_away = leases_pb2.GoAway(reason="a newer session of this agent is open")
        return [_send(go_away=go_away), *self._close(session_states.SUPERSEDE, error)]

    def _close(self, move: SessionMove[Phase], error: TowlineError | None) -> list[Effect]:
        self._go(move)
        return [Close(error)]

    def _go(self, move: SessionMove[Phase]) -> None:
        if self.phase not in move.sources:
            raise RuntimeError(f"a session that is {self.phase} cannot: {move.name}")
        self.phase = move.target


def service_stops() -> TowlineError:
    """Return what sessions end with, and new ones are refused with, while the service stops."""
    return Unavailable("the queue service stops; connect again", reason="SERVICE_STOPPING")


def _outbox_full(agent: str) -> TowlineError:
    return ResourceExhausted(
        f"{agent} does not read what it is sent; reconnect",
        reason="OUTBOX_FULL",
        retry_after=timedelta(seconds=1),
    )


def _cancels(leases: Sequence[LiveLease]) -> list[leases_pb2.Cancel]:
    return [lease_messages.cancel(lease.key, lease.stop) for lease in leases if lease.stop is not None]


def _send(**fields: Any) -> Send:
    return Send(leases_pb2.StreamLeasesResponse(**fields))
