"""Open sessions in memory: bounded outboxes, and one session per agent."""

from datetime import timedelta
from uuid import uuid4

from towline.v1 import leases_pb2
from towline_queue.connections import Connections, Session
from towline_queue.core import leases
from towline_queue.core import session_events as on
from towline_queue.core.lease_policy import DEFAULT
from towline_queue.core.leases import Reconciled, Renewal
from towline_queue.core.sessions import Reconciliation
from towline_queue.signals import Key, Signals, Topic
from towline_testing.driven_session import ONE, claimed

STOPS = on.ServiceStops(timedelta(0), timedelta(0))


def session(epoch: int = 1, signals: Signals | None = None) -> Session:
    made = Session(uuid4(), signals or Signals())
    hello = leases_pb2.Hello(agent="agents/one", instance_id="i", boot_id="b", queues=["queues/default"])
    assert isinstance(made.handle(on.Hello(leases_pb2.StreamLeasesRequest(hello=hello))), on.Open)
    reconciled = Reconciled(Reconciliation([], {}, [], []), [])
    assert made.handle(on.Opened(leases.Opened(epoch, False, DEFAULT, (), reconciled))) is None
    return made


def beat(session: Session) -> None:
    said = leases_pb2.StreamLeasesRequest(heartbeat=leases_pb2.Heartbeat(seq=1, free_slots=1))
    assert isinstance(session.handle(on.Said([said])), on.Renew)
    session.handle(on.Renewed(Renewal(False, [])))


def test_an_agent_that_does_not_read_loses_its_session():
    slow = session()
    answered = 0
    while not slow.closing.is_set():
        beat(slow)
        answered += 1
    assert answered == 1000  # a Welcome and 999 answers fit
    assert slow.error.reason == "OUTBOX_FULL"
    assert slow.handle(on.Goodbye()) is None  # says nothing more, and does not fail


def test_a_session_that_is_closed_sends_what_was_queued_and_a_last_word():
    ending = session()
    ending.handle(STOPS)
    ending.handle(on.DrainWanted())
    assert ending.next_message().HasField("welcome")
    assert ending.next_message().go_away.reason == "the queue service stops"
    assert ending.next_message() is None
    assert ending.error.reason == "SERVICE_STOPPING"


async def test_credits_wake_the_dispatcher():
    signals = Signals()
    with signals.watching(Key(Topic.CREDITS, "agents/one")) as watch:
        beat(session(signals=signals))
        assert await watch.wait()


def test_the_newest_session_of_an_agent_stays_whichever_comes_first():
    for order in ((1, 2), (2, 1)):
        connections = Connections()
        made = {epoch: session(epoch) for epoch in (1, 2)}
        for epoch in order:
            connections.add(made[epoch])
        assert connections.of_agent("agents/one") is made[2]
        assert list(connections) == [made[2]]
        assert made[1].error.reason == "SESSION_SUPERSEDED"
        assert not made[2].closing.is_set()
        connections.remove(made[1])
        assert connections.of_agent("agents/one") is made[2]


async def test_waiting_until_all_have_left():
    connections = Connections()
    await connections.wait_empty()
    only = session()
    connections.add(only)
    connections.remove(only)
    await connections.wait_empty()


def test_an_outbox_is_bounded_in_bytes_too():
    slow = session()
    granted = claimed(ONE, slow.protocol.key.id)._replace(spec=b"\x12\x80\x80\x40" + b"x" * 2**20)
    sent = 0
    while not slow.closing.is_set():
        assert slow.handle(on.Granted([(granted, 1)])) is None
        sent += 1
    assert sent == 8  # the Welcome waits before them; the eighth is over 8 MiB
    assert slow.error.reason == "OUTBOX_FULL"


def test_a_message_that_comes_wakes_the_writer():
    woken = 0

    def write() -> None:
        nonlocal woken
        woken += 1

    made = session()
    made.to_write = write
    made.handle(on.DrainWanted())
    assert woken == 1
    assert made.next_message().HasField("welcome")
    assert made.next_message().HasField("drain")
    assert made.next_message() is None
