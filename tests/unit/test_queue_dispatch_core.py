"""One round of handing out: credits are spent before the claim, and given back where none came of it."""

from datetime import timedelta
from uuid import uuid4

from towline.v1 import leases_pb2
from towline_queue.core import leases
from towline_queue.core import session_events as on
from towline_queue.core.dispatch import HandOut
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import DEFAULT
from towline_queue.core.leases import Claimed, Reconciled, Renewal
from towline_queue.core.matching import Assignment, WaitingRun
from towline_queue.core.session_protocol import SessionProtocol
from towline_queue.core.sessions import Reconciliation

RESERVE = timedelta(seconds=60)


def session(name: str = "one", slots: int = 2) -> SessionProtocol:
    made = SessionProtocol(uuid4())
    hello = leases_pb2.Hello(
        agent=f"agents/{name}", instance_id="i", boot_id="b", queues=["queues/default"], gpus=gpus(slots)
    )
    made.handle(on.Hello(leases_pb2.StreamLeasesRequest(hello=hello)), 0)
    reconciled = Reconciled(Reconciliation([], {}, [], []), [])
    made.handle(on.Opened(leases.Opened(1, False, DEFAULT, (), reconciled)), 0)
    beat(made, slots)
    return made


def gpus(count: int) -> list[leases_pb2.Gpu]:
    return [leases_pb2.Gpu(id=f"GPU-{number}") for number in range(count)]


def beat(session: SessionProtocol, slots: int, seen: int = 0) -> None:
    heartbeat = leases_pb2.Heartbeat(
        seq=1, free_slots=slots, free_gpu_ids=[gpu.id for gpu in gpus(slots)], grant_seq_seen=seen
    )
    session.handle(on.Said([leases_pb2.StreamLeasesRequest(heartbeat=heartbeat)]), 0)
    session.handle(on.Renewed(Renewal(False, [])), 0)


def waiting(*names: str, shape: int = 1) -> list[WaitingRun]:
    return [
        WaitingRun(f"runs/{name}", "queues/default", shape, 2, seq, timedelta(0))
        for seq, name in enumerate(names)
    ]


def claim(assignment: Assignment) -> Claimed:
    key = AttemptKey(assignment.run, 1)
    return Claimed(key, assignment.session, 1, b"", assignment.gpu_ids, timedelta(seconds=120))


def free(session: SessionProtocol) -> tuple[int, int]:
    offer = session.offer(0)
    return offer.free_slots, len(offer.free_gpus)


def test_what_is_claimed_is_granted_under_the_number_it_was_spent_under():
    agent = session()
    handout = HandOut([agent], 0, reserve_after=RESERVE)
    assert handout.worthwhile
    chosen = handout.choose(handout.offers, waiting("a", "b", "c"))
    assert free(agent) == (0, 0)
    granted = handout.claimed([claim(assignment) for assignment in chosen])
    assert [seq for _, seq in granted[agent.key.id].leases] == [1, 2]
    beat(agent, 2)  # said before the grants arrived
    assert free(agent) == (0, 0)
    beat(agent, 2, seen=2)
    assert free(agent) == (2, 2)


def test_a_heartbeat_while_the_claim_is_committed_frees_nothing():
    agent = session()
    handout = HandOut([agent], 0, reserve_after=RESERVE)
    handout.choose(handout.offers, waiting("a", "b"))
    beat(agent, 2)
    assert not HandOut([agent], 0, reserve_after=RESERVE).worthwhile


def test_a_claim_that_failed_gives_everything_back():
    agent = session()
    handout = HandOut([agent], 0, reserve_after=RESERVE)
    handout.choose(handout.offers, waiting("a", "b"))
    handout.failed()
    assert free(agent) == (2, 2)


def test_a_session_that_could_not_have_its_run_gets_nothing_until_it_speaks_again():
    agent, other = session("one"), session("other")
    handout = HandOut([agent, other], 0, reserve_after=RESERVE)
    chosen = handout.choose(handout.offers, waiting("a", "b", "c"))
    assert {assignment.session for assignment in chosen} == {agent.key.id, other.key.id}
    granted = handout.claimed([claim(item) for item in chosen if item.session == other.key.id])
    assert set(granted) == {other.key.id}
    assert free(agent) == (0, 0)
    assert sum(free(other)) > 0 or len(granted[other.key.id].leases) == 2
    beat(agent, 2)
    assert free(agent) == (2, 2)


def test_a_session_that_ended_meanwhile_is_passed_over():
    agent, gone = session("one", slots=2), session("gone", slots=1)  # the tightest fit is chosen first
    handout = HandOut([agent, gone], 0, reserve_after=RESERVE)
    gone.handle(on.Broken(), 0)
    chosen = handout.choose(handout.offers, waiting("a"))
    assert chosen == []
    assert free(agent) == (2, 2)
    # The next round does not offer it at all.
    again = HandOut([agent, gone], 0, reserve_after=RESERVE)
    assert [item.session for item in again.choose(again.offers, waiting("a"))] == [agent.key.id]


def test_gpus_that_the_database_knows_to_be_held_are_not_given():
    agent = session()
    handout = HandOut([agent], 0, reserve_after=RESERVE)
    (offer,) = handout.offers
    fewer = [type(offer)(**(vars(offer) | {"free_gpus": frozenset({"GPU-1"})}))]
    (chosen,) = handout.choose(fewer, waiting("a", "b"))
    assert chosen.gpu_ids == ("GPU-1",)
