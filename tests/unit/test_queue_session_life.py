"""How a session begins and ends, with messages only."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from towline.errors import AlreadyExists, Unavailable
from towline.v1 import leases_pb2
from towline_queue.core import leases
from towline_queue.core import session_events as on
from towline_queue.core.lease_ids import lease_id
from towline_queue.core.lease_policy import DEFAULT
from towline_queue.core.leases import Reconciled, Renewal
from towline_queue.core.session_protocol import SessionProtocol
from towline_queue.core.session_states import Phase
from towline_queue.core.sessions import (
    InventoryEntry,
    Reconciliation,
    VerdictKind,
)
from towline_queue.core.transitions import State
from towline_testing.driven_session import (
    CANCEL,
    ONE,
    TWO,
    Driven,
    claimed,
    hello,
    live,
    opened,
)


def test_the_welcome_follows_the_commit_and_no_grant_goes_before_it():
    protocol = SessionProtocol(uuid4())
    (call,) = protocol.handle(hello(), 0)
    assert isinstance(call, on.Open)
    assert (call.opening.session, call.opening.newcomer.agent, call.opening.queues) == (
        protocol.key.id,
        "agents/one",
        ("queues/default",),
    )
    assert (protocol.phase, protocol.offer(0).free_slots) == (Phase.OPENING, 0)
    (send,) = protocol.handle(opened(), 0)
    welcome = send.message.welcome
    assert (welcome.session_id, welcome.session_epoch) == (str(protocol.key.id), 3)
    assert welcome.heartbeat_interval.ToTimedelta() == DEFAULT.heartbeat_interval
    assert (protocol.phase, protocol.epoch) == (Phase.OPEN, 3)


def test_an_ill_formed_hello_asks_nothing_of_the_store():
    protocol = SessionProtocol(uuid4())
    (close,) = protocol.handle(hello(agent="one"), 0)
    assert close.error.metadata == {"field": "hello.agent"}
    assert protocol.phase is Phase.CLOSED


def test_a_refused_session_ends_with_the_reason():
    protocol = SessionProtocol(uuid4())
    protocol.handle(hello(), 0)
    refusal = AlreadyExists("taken", reason="AGENT_ID_IN_USE")
    assert protocol.handle(on.Failed(refusal), 0) == [on.Close(refusal)]


def test_verdicts_come_with_the_welcome():
    protocol = SessionProtocol(uuid4())
    protocol.handle(hello(), 0)
    entries = [InventoryEntry(lease_id(key), key.epoch, key, State.RUNNING) for key in (ONE, TWO)]
    verdicts = list(zip(entries, [VerdictKind.STOP_PREEMPTED, VerdictKind.STOP_STALE], strict=True))
    outcome = Reconciliation(verdicts, {ONE: State.RUNNING}, [], [])
    opening = leases.Opened(1, False, DEFAULT, ("queues/gone",), Reconciled(outcome, []))
    (send,) = protocol.handle(on.Opened(opening), 0)
    assert [verdict.action for verdict in send.message.welcome.verdicts] == [
        leases_pb2.VERDICT_ACTION_STOP_PREEMPTED,
        leases_pb2.VERDICT_ACTION_STOP_STALE,
    ]
    assert list(send.message.welcome.missing_queues) == ["queues/gone"]


def test_a_drain_is_told_once_and_nothing_is_offered_from_then_on():
    session = Driven()
    session.beat()
    assert session.protocol.offer(session.now_s).total_gpus == 1
    for _ in range(2):
        session.tell(on.DrainWanted())
        session.beat(Renewal(True, []))
    assert sum(message.HasField("drain") for message in session.sent) == 1
    offer = session.protocol.offer(session.now_s)
    assert (offer.free_slots, offer.total_gpus) == (0, 0)


def test_a_drain_that_only_the_database_knows_comes_with_the_renewal():
    session = Driven()
    session.beat(Renewal(True, []))
    assert session.sent[-1].HasField("drain")


def test_a_session_that_opens_draining_is_told_with_its_welcome():
    session = Driven(draining=True)
    session.beat(Renewal(True, []))
    assert [message.HasField("drain") for message in session.sent] == [True, False]


def test_a_good_bye_is_carried_out_after_what_was_said():
    session = Driven()
    assert session.tell(on.Goodbye()) == on.Leave(session.protocol.key)
    assert session.protocol.phase is Phase.LEAVING
    assert session.free_slots() == 0
    session.tell(on.Left())
    assert session.closed == on.Close(None)


def test_nonsense_ends_the_session_with_the_field():
    session = Driven()
    session.say(hello=leases_pb2.Hello())
    assert session.closed.error.metadata == {"field": "hello"}


def test_a_service_that_stops_says_when_to_come_back():
    session = Driven(ONE)
    session.tell(on.ServiceStops(timedelta(seconds=1), timedelta(seconds=2)))
    assert session.sent[-1].go_away.jitter.ToTimedelta() == timedelta(seconds=2)
    assert session.closed.error.reason == "SERVICE_STOPPING"


@pytest.mark.parametrize(("ttl_s", "goes"), [(9.9, True), (10, False), (120, False)])
def test_a_lease_that_the_sessions_heartbeats_cannot_renew_has_the_agent_connect_again(
    ttl_s: float, goes: bool
):
    session = Driven(ONE)
    made = claimed(TWO, session.protocol.key.id, timedelta(seconds=ttl_s))
    assert session.tell(on.Granted([(made, 1)])) is None
    assert len(session.sent[1].grants) == 1, "the lease stays"
    assert (session.closed == on.Close(None)) is goes
    assert (session.sent[-1].go_away.reason == "the lease policy of a queue has changed") is goes


def test_what_a_queue_had_before_the_session_opened_ends_it_not():
    session = SessionProtocol(uuid4())
    session.handle(hello(), 0)
    policy = replace(DEFAULT, lost_after=timedelta(seconds=8), disconnected_after=timedelta(seconds=7))
    session.handle(replace(opened(), opened=replace(opened().opened, policy=policy)), 0)
    effects = session.handle(on.Granted([(claimed(ONE, session.key.id, timedelta(seconds=8)), 1)]), 0)
    assert [type(effect) for effect in effects] == [on.Send], "the next session would be the same"


ENDINGS = {
    "broken": lambda session: session.tell(on.Broken()),
    "overflow": lambda session: session.tell(on.OutboxFull()),
    "superseded": lambda session: session.tell(on.Superseded()),
    "stopping": lambda session: session.tell(on.ServiceStops(timedelta(0), timedelta(0))),
    "other terms": lambda session: session.tell(
        on.Granted([(claimed(ONE, session.protocol.key.id, timedelta(seconds=6)), 1)])
    ),
    "failed": lambda session: session.tell(on.Failed(Unavailable("no", reason="NO"))),
    "left": lambda session: (session.tell(on.Goodbye()), session.tell(on.Left())),
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_after_the_end_nothing_happens_and_nothing_is_promised(end: Callable[[Driven], object]):
    session = Driven(ONE)
    session.beat(Renewal(False, [live(ONE, session.protocol.key.id)]))
    end(session)
    assert session.protocol.phase is Phase.CLOSED
    session.closed, sent = None, len(session.sent)
    late: list[on.Event] = [
        on.Granted([(claimed(TWO, session.protocol.key.id), 1)]),
        on.Renewed(Renewal(False, [])),
        on.Said([leases_pb2.StreamLeasesRequest(heartbeat=leases_pb2.Heartbeat(seq=2))]),
        on.StopWanted(live(ONE, session.protocol.key.id, CANCEL)),
        on.DrainWanted(),
        on.Goodbye(),
        on.Superseded(),
        on.OutboxFull(),
        on.Broken(),
    ]
    for event in late:
        assert session.tell(event) is None
    assert (session.closed, len(session.sent)) == (None, sent)
    assert session.free_slots() == 0


def test_an_outbox_that_is_full_ends_that_session_and_says_so():
    session = Driven(ONE)
    session.tell(on.OutboxFull())
    assert session.closed.error.reason == "OUTBOX_FULL"
    assert session.closed.error.retry_after == timedelta(seconds=1)
