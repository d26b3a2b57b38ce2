"""Open sessions in memory: bounded outboxes, one session per agent, rests for agents that refuse."""

from uuid import uuid4

from towline.v1 import leases_pb2
from towline_queue.connections import Connections, Identity, Session
from towline_queue.core.lease_policy import DEFAULT


def session(epoch: int = 1, agent: str = "agents/one") -> Session:
    made = Session(Identity(uuid4(), agent, epoch, ("queues/default",), 0, DEFAULT), set())
    made.credits.told(1, 4, frozenset(), 0)
    return made


def message() -> leases_pb2.StreamLeasesResponse:
    return leases_pb2.StreamLeasesResponse(inventory_wanted=True)


def test_an_agent_that_does_not_read_loses_its_session():
    slow = session()
    sent = 0
    while not slow.closing.is_set():
        slow.send(message())
        sent += 1
    assert sent == 1001
    assert slow.error.reason == "OUTBOX_FULL"
    assert slow.error.retry_after is not None
    slow.send(message())  # says nothing more, and does not fail


async def test_a_session_that_is_closed_sends_what_was_queued_and_a_last_word():
    ending = session()
    ending.send(message())
    ending.close(None, leases_pb2.GoAway(reason="bye"))
    ending.send(message())
    assert (await ending.next_message()).inventory_wanted
    assert (await ending.next_message()).go_away.reason == "bye"
    assert await ending.next_message() is None


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


def test_an_agent_that_refuses_gets_nothing_for_a_while():
    refusing = session()
    assert refusing.offer().free_slots == 4
    refusing.refused()
    assert refusing.offer().free_slots == 0
