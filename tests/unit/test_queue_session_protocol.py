"""What an open session hears and promises, with messages only."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from towline.v1 import leases_pb2, runs_pb2
from towline_queue.core import session_events as on
from towline_queue.core.lease_ids import AttemptKey, lease_id
from towline_queue.core.leases import Claimed, Ended, Reconciled, Renewal
from towline_queue.core.reports import FinishVerdict
from towline_queue.core.sessions import (
    InventoryEntry,
    Reconciliation,
    VerdictKind,
    lease_set_digest,
)
from towline_queue.core.stops import Stop, StopReason
from towline_queue.core.transitions import State
from towline_testing.driven_session import NOTHING, ONE, PREEMPT, TWO, Driven, answer, claimed, live, reply

# Renewal


def test_renewed_follows_the_commit_of_the_renewal():
    session = Driven()
    sent = len(session.sent)
    call = session.say(heartbeat=leases_pb2.Heartbeat(seq=7, free_slots=2))
    assert call == on.Renew(session.protocol.key)
    assert len(session.sent) == sent
    assert session.free_slots() == 0  # the database would refuse a claim still
    session.tell(on.Renewed(Renewal(False, [])))
    assert session.sent[-1].renewed.ack_seq == 7
    assert (session.free_slots(), session.woken) == (2, 1)


def test_the_dispatcher_is_woken_only_by_credits_that_are_new():
    session = Driven()
    woken = []
    for free_slots in (2, 2, 1, 0, 0, 1):
        session.say(heartbeat=leases_pb2.Heartbeat(seq=1, free_slots=free_slots))
        session.tell(on.Renewed(Renewal(False, [])))
        woken.append(session.woken)
    assert woken == [1, 1, 2, 3, 3, 4]


def test_of_several_heartbeats_at_once_the_newest_is_answered():
    session = Driven()
    beats = [leases_pb2.StreamLeasesRequest(heartbeat=leases_pb2.Heartbeat(seq=seq)) for seq in (1, 2, 3)]
    assert isinstance(session.tell(on.Said(beats)), on.Renew)
    assert session.tell(on.Renewed(Renewal(False, []))) is None
    assert [message.renewed.ack_seq for message in session.sent[1:]] == [3]


def test_what_one_message_says_is_carried_out_in_the_order_of_its_fields():
    session = Driven()
    call = session.say(
        grant_replies=[reply(ONE, accepted=True)],
        heartbeat=leases_pb2.Heartbeat(seq=1),
        drain=leases_pb2.Drain(),
    )
    assert isinstance(call, on.Commit)
    assert session.tell(answer()) == on.Drain(session.protocol.key)
    assert session.tell(on.Drained()) == on.Renew(session.protocol.key)


def test_why_an_agent_takes_no_runs_is_stored_when_it_is_another_reason_and_never_delays_a_renewal():
    session = Driven()
    stored = []
    for why in ("", "full", "full", "full\x00er" + "r" * 2000, ""):
        assert isinstance(session.say(heartbeat=leases_pb2.Heartbeat(seq=1, withheld=why)), on.Renew)
        call = session.tell(on.Renewed(Renewal(False, [])))
        if call is not None:
            assert session.sent[-1].HasField("renewed")
            stored.append(call.why)
            assert session.tell(on.Withheld()) is None
    assert [why[:7] for why in stored] == ["full", "full\N{REPLACEMENT CHARACTER}er", ""]
    assert max(map(len, stored)) == 1024


def test_an_agent_that_takes_runs_again_gets_them_once_its_row_is_written():
    """A claim would pass over a row that is locked, and the agent would wait for its next heartbeat."""
    session = Driven()
    session.say(heartbeat=leases_pb2.Heartbeat(seq=1, withheld="full"))
    session.tell(on.Renewed(Renewal(False, [])))
    session.tell(on.Withheld())
    session.say(heartbeat=leases_pb2.Heartbeat(seq=2, free_slots=2))
    assert isinstance(session.tell(on.Renewed(Renewal(False, []))), on.Withhold)
    assert (session.sent[-1].renewed.ack_seq, session.woken) == (2, 0)
    assert session.tell(on.Withheld()) is None
    assert session.woken == 1
    session.say(heartbeat=leases_pb2.Heartbeat(seq=3, free_slots=1))
    session.tell(on.Renewed(Renewal(False, [])))
    assert session.woken == 2


def test_a_second_call_never_begins_before_the_first_is_answered():
    session = Driven()
    session.say(heartbeat=leases_pb2.Heartbeat(seq=1))
    assert session.protocol.busy
    with pytest.raises(RuntimeError, match="under way"):
        session.say(heartbeat=leases_pb2.Heartbeat(seq=2))


def test_a_superseded_session_hears_it_and_nothing_else():
    session = Driven(ONE)
    session.say(heartbeat=leases_pb2.Heartbeat(seq=1, free_slots=2))
    session.tell(on.Renewed(None))
    assert session.sent[-1] == leases_pb2.StreamLeasesResponse(
        go_away=leases_pb2.GoAway(reason="a newer session of this agent is open")
    )
    assert session.closed.error.reason == "SESSION_SUPERSEDED"
    assert (session.free_slots(), session.woken) == (0, 0)


@pytest.mark.parametrize("reason", StopReason)
def test_stops_are_repeated_with_each_renewal(reason: StopReason):
    session = Driven(ONE, TWO)
    lease = live(ONE, session.protocol.key.id, Stop(reason, timedelta(seconds=9)))
    for _ in range(2):
        (cancel,) = session.beat(Renewal(False, [lease, live(TWO, lease.session)])).cancels
        assert (cancel.lease_id, cancel.epoch) == (lease_id(ONE), 1)
        assert cancel.grace.ToTimedelta() == timedelta(seconds=9)
        assert leases_pb2.StopReason.Name(cancel.reason) == f"STOP_REASON_{reason.name}"


def test_a_stop_is_pushed():
    session = Driven(ONE)
    session.tell(on.StopWanted(live(ONE, session.protocol.key.id, PREEMPT)))
    assert [cancel.reason for cancel in session.sent[-1].cancels] == [leases_pb2.STOP_REASON_PREEMPTED]


# Leases that are gone


def test_a_lease_that_is_gone_from_the_database_is_told_as_lost_once():
    session = Driven(ONE)
    assert list(session.beat().renewed.lost_lease_ids) == [lease_id(ONE)]
    assert list(session.beat().renewed.lost_lease_ids) == []


def test_a_grant_during_a_renewal_is_not_missed_in_its_answer():
    session = Driven()
    session.say(heartbeat=leases_pb2.Heartbeat(seq=1, free_slots=1))
    session.grant(ONE)  # committed after the renewal, told before it
    session.tell(on.Renewed(Renewal(False, [])))
    assert list(session.sent[-1].renewed.lost_lease_ids) == []
    assert list(session.beat().renewed.lost_lease_ids) == [lease_id(ONE)]


def test_a_stale_report_is_answered_with_the_next_renewal_and_ends_nothing():
    session = Driven(ONE)
    session.say(run_events=[leases_pb2.RunEvent(lease_id=lease_id(ONE), epoch=1, event_seq=1, state=5)])
    assert session.tell(answer(stale={ONE})) is None
    assert list(session.beat().renewed.lost_lease_ids) == [lease_id(ONE)]
    assert session.closed is None


def test_an_id_that_was_never_made_is_lost():
    session = Driven()
    assert session.say(releases=[leases_pb2.Release(lease_id="x", epoch=1)]) is None
    assert list(session.beat().renewed.lost_lease_ids) == ["x"]


@pytest.mark.parametrize("verdict", FinishVerdict)
def test_a_confirm_follows_the_commit(verdict: FinishVerdict):
    session = Driven(ONE)
    finish = leases_pb2.Finish(lease_id=lease_id(ONE), epoch=1, finish_id=str(uuid4()))
    finish.result.outcome = runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
    sent = len(session.sent)
    call = session.say(finishes=[finish])
    assert isinstance(call, on.Commit)
    assert len(session.sent) == sent
    session.tell(answer(results=[(UUID(finish.finish_id), verdict)], ended={ONE}))
    (confirm,) = session.sent[-1].confirms
    assert confirm.finish_id == finish.finish_id
    assert leases_pb2.FinishVerdict.Name(confirm.verdict) == f"FINISH_VERDICT_{verdict.name}"
    assert list(session.beat().renewed.lost_lease_ids) == []


def test_confirms_go_with_the_acknowledgement_of_the_heartbeat_that_came_with_the_results():
    session = Driven(ONE)
    finish = leases_pb2.Finish(lease_id=lease_id(ONE), epoch=1, finish_id=str(uuid4()))
    finish.result.outcome = runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED
    sent = len(session.sent)
    assert isinstance(session.say(finishes=[finish], heartbeat=leases_pb2.Heartbeat(seq=1)), on.Commit)
    results = [(UUID(finish.finish_id), FinishVerdict.OK)]
    assert isinstance(session.tell(answer(results=results, ended={ONE})), on.Renew)
    assert len(session.sent) == sent
    session.tell(on.Renewed(Renewal(False, [])))
    (message,) = session.sent[sent:]
    assert [confirm.finish_id for confirm in message.confirms] == [finish.finish_id]
    assert message.renewed.ack_seq == 1
    assert not session.beat().confirms


# Inventory


@pytest.mark.parametrize(
    ("held", "seen", "wanted"),
    [
        ({ONE}, 0, False),  # the grant of TWO is still on its way
        ({ONE, TWO}, 1, False),
        ({ONE}, 1, True),
        ({ONE, TWO}, 0, True),
        (set(), 1, True),
    ],
)
def test_an_inventory_is_wanted_when_the_sets_differ(held: set[AttemptKey], seen: int, wanted: bool):
    session = Driven(ONE)
    session.grant(TWO)
    renewal = Renewal(False, [live(key, session.protocol.key.id) for key in (ONE, TWO)])
    answered = session.beat(renewal, lease_set_digest=lease_set_digest(held), grant_seq_seen=seen)
    assert answered.inventory_wanted == wanted


def test_an_agent_without_a_digest_is_not_asked():
    session = Driven(ONE)
    assert not session.beat(Renewal(False, [live(ONE, session.protocol.key.id)])).inventory_wanted


def test_an_inventory_speaks_for_what_the_agent_has_heard_of():
    session = Driven(ONE)
    session.grant(TWO)
    renewal = Renewal(False, [live(key, session.protocol.key.id) for key in (ONE, TWO)])
    session.say(heartbeat=leases_pb2.Heartbeat(seq=9, has_inventory=True))
    sent = len(session.sent)
    call = session.tell(on.Renewed(renewal))
    assert isinstance(call, on.Settle)
    assert call.inventory.speaks_for == {ONE}
    assert len(session.sent) == sent  # the answer tells what came of it
    gone = Reconciliation([], {}, [], [ONE])
    session.tell(on.Settled(Reconciled(gone, [Ended(ONE, "queues/default", State.QUEUED)])))
    assert session.sent[-1].renewed.ack_seq == 9
    assert not session.sent[-1].inventory_wanted
    assert list(session.beat(Renewal(False, renewal.leases[1:])).renewed.lost_lease_ids) == []


def test_an_inventory_that_comes_with_a_newer_heartbeat_does_not_speak_for_grants_between_the_two():
    session = Driven()
    session.grant(ONE)
    beats = [
        leases_pb2.Heartbeat(seq=1, has_inventory=True),
        leases_pb2.Heartbeat(seq=2, grant_seq_seen=1, free_slots=1),
    ]
    call = session.tell(on.Said([leases_pb2.StreamLeasesRequest(heartbeat=beat) for beat in beats]))
    assert isinstance(call, on.Renew)
    call = session.tell(on.Renewed(Renewal(False, [live(ONE, session.protocol.key.id)])))
    assert isinstance(call, on.Settle)
    assert call.inventory.speaks_for == set()
    session.tell(on.Settled(NOTHING))
    assert session.sent[-1].renewed.ack_seq == 2


def test_stop_verdicts_of_an_inventory_are_told_as_lost():
    session = Driven()
    session.say(heartbeat=leases_pb2.Heartbeat(seq=9, has_inventory=True))
    session.tell(on.Renewed(Renewal(False, [])))
    entry = InventoryEntry(lease_id(ONE), 1, ONE, State.RUNNING)
    outcome = Reconciliation([(entry, VerdictKind.STOP_STALE)], {}, [], [])
    session.tell(on.Settled(Reconciled(outcome, [])))
    assert list(session.sent[-1].renewed.lost_lease_ids) == [lease_id(ONE)]


def test_a_session_superseded_while_it_settles_hears_it():
    session = Driven()
    session.say(heartbeat=leases_pb2.Heartbeat(seq=9, has_inventory=True))
    session.tell(on.Renewed(Renewal(False, [])))
    session.tell(on.Settled(None))
    assert session.closed.error.reason == "SESSION_SUPERSEDED"
    assert not session.sent[-1].HasField("renewed")


# Grants and refusals


def test_each_grant_carries_the_ttl_of_its_own_lease():
    session = Driven()
    ttls = {ONE: timedelta(seconds=60), TWO: timedelta(hours=8)}
    made = [
        (claimed(key, session.protocol.key.id, ttl), seq) for seq, (key, ttl) in enumerate(ttls.items(), 1)
    ]
    session.tell(on.Granted(made))
    (message,) = session.sent[1:]
    assert [grant.ttl.ToTimedelta() for grant in message.grants] == list(ttls.values())
    assert [grant.grant_seq for grant in message.grants] == [1, 2]


def test_many_large_grants_go_in_messages_of_bounded_size():
    session = Driven()
    spec = runs_pb2.LaunchSpec(run="runs/x", author="x" * 3_000_000).SerializeToString()
    made = [
        (Claimed(AttemptKey(f"runs/{n}", 1), session.protocol.key.id, 1, spec, (), timedelta(1)), n)
        for n in range(1, 4)
    ]
    session.tell(on.Granted(made))
    assert [len(message.grants) for message in session.sent[1:]] == [1, 1, 1]


def test_an_agent_that_refuses_rests_longer_each_time_and_one_that_accepts_no_more():
    session = Driven()
    pauses = []
    for _ in range(7):
        session.say(grant_replies=[reply(ONE, accepted=False)])
        session.tell(answer(ended={ONE}))
        session.beat()
        began = session.now_s
        while session.free_slots() == 0:
            session.now_s += 0.5
        pauses.append(session.now_s - began)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    session.say(grant_replies=[reply(ONE, accepted=True)])
    session.tell(answer())
    session.say(grant_replies=[reply(TWO, accepted=False)])
    session.tell(answer(ended={TWO}))
    session.now_s += 1
    assert session.free_slots() == 2


def test_a_grant_taken_back_counts_as_refused():
    session = Driven()
    session.grant(ONE)
    session.beat(grant_seq_seen=1)
    assert session.free_slots() == 0
    session.now_s += 1
    assert session.free_slots() == 2
