"""How often sessions send heartbeats, how long these may wait for each other, and when leases are read."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.v1 import leases_pb2
from towline_queue.core import session_events as on
from towline_queue.core.heartbeats import Pace
from towline_queue.core.lease_policy import DEFAULT, LeasePolicy
from towline_queue.core.leases import Renewal
from towline_testing.driven_session import ONE, Driven, answer, live, reply

AT_ONCE = timedelta(0)


def pace(sessions: int) -> Pace:
    made = Pace()
    made.sessions = sessions
    return made


def beat(session: Driven, **fields: object) -> on.Renew:
    """Send a heartbeat and answer what the session asks because of it."""
    call = session.say(heartbeat=leases_pb2.Heartbeat(seq=1, **fields))
    assert isinstance(call, on.Renew)
    session.tell(on.Renewed(Renewal(False, [] if call.look else None)))
    return call


def test_few_sessions_send_heartbeats_as_their_queues_ask_for():
    for sessions in (0, 1, 1250):
        assert pace(sessions).interval(DEFAULT) == timedelta(seconds=5)


def test_many_sessions_send_them_more_seldom_but_within_bounds():
    assert pace(2500).interval(DEFAULT) == timedelta(seconds=10)
    assert pace(1_000_000).interval(DEFAULT) == timedelta(seconds=18.9)
    short = replace(DEFAULT, lost_after=timedelta(seconds=36))
    assert pace(1_000_000).interval(short) == timedelta(seconds=6)


@given(
    st.integers(0, 10**6),
    st.floats(0.1, 100).map(lambda s: timedelta(seconds=s)),
    st.floats(1.1, 10),
    st.floats(1.1, 10),
)
def test_no_crowd_lets_a_lease_end_or_an_agent_seem_silent_between_two_heartbeats(
    sessions: int, interval: timedelta, silence: float, lost: float
):
    policy = LeasePolicy(interval, interval * silence, interval * silence * lost)
    told = pace(sessions).interval(policy)
    assert told >= interval
    assert told == interval or (told <= policy.disconnected_after * 0.63 and told <= policy.lost_after / 6)


def test_the_welcome_says_how_often():
    session = Driven(pace=pace(2500))
    assert session.sent[0].welcome.heartbeat_interval.ToTimedelta() == timedelta(seconds=10)


def test_those_that_waited_for_each_other_are_told_to_come_back_together():
    session = Driven(pace=pace(1000))
    for free_slots, told in ((1, True), (1, True), (0, False), (0, True)):
        beat(session, free_slots=free_slots)
        assert session.sent[-1].renewed.HasField("heartbeat_interval") is told
    assert session.sent[-1].renewed.heartbeat_interval.ToTimedelta() == timedelta(seconds=5)


def test_a_crowd_that_comes_or_goes_is_told_once():
    crowd = pace(1)
    session = Driven(pace=crowd)
    for sessions, told in ((1, None), (1500, None), (2500, 10), (2600, None), (1, 5)):
        crowd.sessions = sessions
        for number, expected in enumerate((told, None)):
            beat(session, free_slots=number)
            renewed = session.sent[-1].renewed
            assert renewed.HasField("heartbeat_interval") is (expected is not None)
            if expected is not None:
                assert renewed.heartbeat_interval.ToTimedelta() == timedelta(seconds=expected)


def test_a_heartbeat_that_says_nothing_new_may_wait_for_others_in_a_crowd():
    for sessions, wait in ((200, AT_ONCE), (201, timedelta(milliseconds=250))):
        session = Driven(pace=pace(sessions))
        assert [beat(session).within for _ in range(2)] == [wait, wait]


@pytest.mark.parametrize(
    "news",
    [
        {"free_slots": 2},
        {"lease_set_digest": "x"},
        {"grant_seq_seen": 1},
        {"free_gpu_ids": ["GPU-1"]},
        {"has_inventory": True},
    ],
    ids=lambda news: next(iter(news)),
)
def test_news_do_not_wait(news: dict[str, object]):
    session = Driven(pace=pace(1000))
    beat(session)
    call = session.say(heartbeat=leases_pb2.Heartbeat(seq=2, **news))
    assert isinstance(call, on.Renew)
    assert call.within == AT_ONCE


def test_a_heartbeat_that_comes_with_a_report_does_not_wait():
    session = Driven(ONE, pace=pace(1000))
    beat(session)
    session.say(grant_replies=[reply(ONE, accepted=True)], heartbeat=leases_pb2.Heartbeat(seq=2))
    call = session.tell(answer())
    assert isinstance(call, on.Renew)
    assert call.within == AT_ONCE


def test_a_heartbeat_alone_has_the_leases_read():
    session = Driven(ONE)
    assert [beat(session).look for _ in range(3)] == [True] * 3


def test_heartbeats_with_reports_have_the_leases_read_now_and_then():
    session = Driven(ONE)

    def looks() -> bool:
        session.say(grant_replies=[reply(ONE, accepted=True)], heartbeat=leases_pb2.Heartbeat(seq=1))
        call = session.tell(answer())
        assert isinstance(call, on.Renew)
        leases = [live(ONE, session.protocol.key.id)] if call.look else None
        assert session.tell(on.Renewed(Renewal(False, leases))) is None
        return call.look

    assert [looks(), looks()] == [True, False]
    session.now_s += 2.4
    assert not looks()
    session.now_s += 0.1
    assert [looks(), looks()] == [True, False]


def test_leases_that_were_not_read_are_neither_lost_nor_other_than_the_agent_says():
    session = Driven(ONE)
    session.say(heartbeat=leases_pb2.Heartbeat(seq=1, lease_set_digest="other"))
    session.tell(on.Renewed(Renewal(False, None)))
    assert session.sent[-1].renewed.ack_seq == 1
    assert not session.sent[-1].renewed.lost_lease_ids
    assert not session.sent[-1].inventory_wanted
