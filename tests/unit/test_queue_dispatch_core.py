"""Rounds of handing out: who is considered, what is searched, and credits that are held during the claim."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

from towline.v1 import leases_pb2
from towline_queue.core import leases
from towline_queue.core import session_events as on
from towline_queue.core.dispatch import Dispatch, HandedOut, Round, Search
from towline_queue.core.lease_ids import AttemptKey
from towline_queue.core.lease_policy import DEFAULT
from towline_queue.core.leases import Claimed, Reconciled, Renewal
from towline_queue.core.matching import Lane, Place, WaitingRun
from towline_queue.core.session_protocol import SessionProtocol
from towline_queue.core.sessions import Reconciliation

RESERVE = timedelta(seconds=60)
QUEUE = "queues/default"
CPU, ONE_GPU, TWO_GPUS = Lane(QUEUE, 0), Lane(QUEUE, 1), Lane(QUEUE, 2)


def session(name: str = "one", slots: int = 2, gpus: int = 0, queues: Sequence[str] = (QUEUE,)):
    made = SessionProtocol(uuid4())
    hello = leases_pb2.Hello(
        agent=f"agents/{name}", instance_id="i", boot_id="b", queues=queues, gpus=gpus_of(gpus)
    )
    made.handle(on.Hello(leases_pb2.StreamLeasesRequest(hello=hello)), 0)
    reconciled = Reconciled(Reconciliation([], {}, [], []), [])
    made.handle(on.Opened(leases.Opened(1, False, DEFAULT, (), reconciled)), 0)
    beat(made, slots)
    return made


def gpus_of(count: int) -> list[leases_pb2.Gpu]:
    return [leases_pb2.Gpu(id=f"GPU-{number}") for number in range(count)]


def beat(session: SessionProtocol, slots: int, seen: int = 0) -> None:
    heartbeat = leases_pb2.Heartbeat(
        seq=1,
        free_slots=slots,
        free_gpu_ids=[gpu.id for gpu in gpus_of(session.gpus)],
        grant_seq_seen=seen,
    )
    session.handle(on.Said([leases_pb2.StreamLeasesRequest(heartbeat=heartbeat)]), 0)
    session.handle(on.Renewed(Renewal(False, [])), 0)


def dispatch(*sessions: SessionProtocol) -> Dispatch:
    """One that has looked everywhere and found nothing."""
    made = Dispatch(reserve_after=RESERVE)
    for one in sessions:
        made.can_take(one)
    while (round_ := made.begin(0)) is not None:
        search(round_, [])
    return made


def search(round_: Round, waiting: Sequence[WaitingRun]) -> list[Place]:
    """End a round as a store does that finds these runs, and returns what was chosen."""
    looked = len(round_.searches) > 1
    chosen = round_.choose(round_.offers, waiting if looked else None)
    claimed, found = [], Counter[Lane]()
    for lane, _, _ in round_.searches:
        runs = [run for run in waiting if Lane(run.queue, run.shape) == lane]
        places = [place for place in chosen if place.lane == lane for _ in range(place.slots)]
        for run, place in zip(runs, places, strict=False):
            claimed.append(claim(run.run, place.session, place.gpu_ids))
            found[lane] += 1
    dry = {
        lane
        for lane, _, _ in round_.searches
        if sum(Lane(run.queue, run.shape) == lane for run in waiting) <= found[lane]
    }
    round_.ended(HandedOut(claimed, found, frozenset(), frozenset(dry)))
    return chosen


def claim(run: str, session: UUID, gpu_ids: tuple[str, ...] = ()) -> Claimed:
    return Claimed(AttemptKey(run, 1), session, 1, b"", gpu_ids, timedelta(seconds=120))


def waiting(*names: str, shape: int = 0) -> list[WaitingRun]:
    return [WaitingRun(f"runs/{name}", QUEUE, shape, 2, seq, timedelta(0)) for seq, name in enumerate(names)]


def begun(made: Dispatch, now_s: float = 0) -> Round:
    round_ = made.begin(now_s)
    assert round_ is not None
    return round_


def test_a_run_that_is_being_stored_has_a_place_where_none_is_known_to_wait():
    agent = session()
    made = dispatch(agent)
    round_ = made.begin_for(CPU, 0)
    assert round_ is not None
    assert round_.choose(round_.offers, None) == [Place(CPU, agent.key.id, "agents/one", 1)]
    beat(agent, 1)  # said while it is being stored
    assert agent.credits.free_slots == 0
    lease = claim("runs/a", agent.key.id)
    granted = round_.ended(HandedOut([lease], dry=frozenset({CPU})))
    assert granted[agent.key.id].leases == [(lease, 1)]
    assert made.begin(0) is None
    assert made.begin_for(CPU, 0) is None  # its only slot is taken


def test_a_run_that_is_being_stored_has_none_where_another_may_go_before_it():
    made = dispatch(session(queues=(QUEUE, "queues/other")))
    assert made.begin_for(Lane("queues/unknown", 0), 0) is None
    made.may_wait("queues/other", 0)
    assert made.begin_for(CPU, 0) is None
    search(begun(made), [])
    assert made.begin_for(CPU, 0) is not None


def test_where_nobody_knows_whether_it_was_stored_it_is_searched_for():
    agent = session()
    made = dispatch(agent)
    round_ = made.begin_for(CPU, 0)
    assert round_ is not None
    round_.choose(round_.offers, None)
    round_.failed()
    assert agent.credits.free_slots == 2
    assert [search.lane for search in begun(made).searches] == [CPU]


def test_what_is_claimed_is_granted_in_order():
    agent = session()
    made = dispatch(agent)
    made.may_wait(QUEUE, 0)
    round_ = begun(made)
    (place,) = round_.choose(round_.offers, None)
    assert place == Place(CPU, agent.key.id, "agents/one", 2)
    assert agent.credits.free_slots == 0
    leases_made = [claim("runs/a", agent.key.id), claim("runs/b", agent.key.id)]
    granted = round_.ended(HandedOut(leases_made, {CPU: 2}))
    assert granted[agent.key.id].leases == [(leases_made[0], 1), (leases_made[1], 2)]
    beat(agent, 2)  # said before the grants arrived
    assert agent.credits.free_slots == 0
    beat(agent, 2, seen=2)
    assert agent.credits.free_slots == 2


def test_a_heartbeat_while_the_claim_is_committed_frees_nothing():
    agent = session()
    made = dispatch(agent)
    made.may_wait(QUEUE, 0)
    round_ = begun(made)
    round_.choose(round_.offers, None)
    beat(agent, 2)
    assert agent.credits.free_slots == 0
    round_.ended(HandedOut([claim("runs/a", agent.key.id)], {CPU: 1}, dry=frozenset({CPU})))
    assert agent.credits.free_slots == 1


def test_a_claim_that_failed_gives_everything_back_and_is_tried_again():
    agent = session()
    made = dispatch(agent)
    made.may_wait(QUEUE)
    round_ = begun(made)
    round_.choose(round_.offers, None)
    round_.failed()
    assert agent.credits.free_slots == 2
    assert begun(made).searches == round_.searches == [Search(CPU, 2, anew=True)]


def test_a_session_that_could_not_have_its_run_gets_nothing_until_it_speaks_again():
    agent, other = session("one", slots=4), session("other")
    made = dispatch(agent, other)
    made.may_wait(QUEUE, 0)
    round_ = begun(made)
    (place,) = round_.choose(round_.offers, None)
    assert place.session == agent.key.id
    assert not round_.ended(HandedOut(refused=frozenset({agent.key.id})))
    assert agent.credits.free_slots == 0
    (place,) = search(begun(made), waiting("a"))
    assert place.session == other.key.id
    beat(agent, 2)
    assert agent.credits.free_slots == 2


def test_a_session_that_ended_meanwhile_is_passed_over():
    agent, gone = session("one"), session("gone", slots=8)
    made = dispatch(agent, gone)
    made.may_wait(QUEUE, 0)
    round_ = begun(made)
    gone.handle(on.Broken(), 0)
    assert [place.session for place in round_.choose(round_.offers, None)] == [agent.key.id]
    round_.failed()
    assert [offer.session for offer in begun(made).offers] == [agent.key.id]


def test_gpus_that_the_database_knows_to_be_held_are_not_given():
    agent = session(gpus=2)
    made = dispatch(agent)
    made.may_wait(QUEUE, 1)
    round_ = begun(made)
    fewer = [replace(offer, free_gpus=frozenset({"GPU-1"})) for offer in round_.offers]
    (chosen,) = round_.choose(fewer, None)
    assert chosen.gpu_ids == ("GPU-1",)


def test_nothing_is_searched_where_nothing_can_be():
    agent = session(gpus=1)
    made = dispatch(agent)
    assert made.begin(0) is None
    made.may_wait("queues/other", 0)
    made.may_wait(QUEUE, 2)  # nobody has two GPUs
    assert made.begin(0) is None
    made.may_wait(QUEUE, 1)
    assert begun(made).searches == [Search(ONE_GPU, 1, anew=False)]


def test_several_lanes_are_looked_at_and_the_empty_ones_not_again():
    agent = session(slots=4, gpus=2)
    made = dispatch(agent)
    made.may_wait(QUEUE)
    round_ = begun(made)
    assert {one.lane for one in round_.searches} == {CPU, ONE_GPU, TWO_GPUS}
    assert all(one.anew for one in round_.searches)
    search(round_, waiting("a", "b", "c", shape=1))
    assert agent.credits.free_slots == 2
    beat(agent, 4, seen=2)
    assert begun(made).searches == [Search(ONE_GPU, 2, anew=False)]


def test_runs_announced_during_a_claim_that_misses_them_are_searched_for():
    agent = session()
    made = dispatch(agent)
    made.may_wait(QUEUE, 0)
    round_ = begun(made)
    made.may_wait(QUEUE, 0)
    search(round_, [])
    assert begun(made).searches == [Search(CPU, 2, anew=False)]


def test_a_session_is_considered_again_once_it_has_credits():
    agent = session(slots=1)
    made = dispatch(agent)
    made.may_wait(QUEUE, 0)
    round_ = begun(made)
    round_.choose(round_.offers, None)
    round_.ended(HandedOut([claim("runs/a", agent.key.id)], {CPU: 1}))
    assert made.begin(0) is None
    beat(agent, 1, seen=1)
    assert made.begin(0) is None  # nobody has said so
    made.can_take(agent)
    assert begun(made).searches == [Search(CPU, 1, anew=False)]


def test_more_is_asked_for_while_everything_asked_for_is_found():
    made = dispatch(session(slots=3000))
    made.may_wait(QUEUE, 0)
    asked = []
    for _ in range(7):
        round_ = begun(made)
        asked.append(round_.searches[0].most)
        search(round_, waiting(*map(str, range(2900))))
    assert asked == [2, 8, 32, 128, 512, 2000, 318]


def test_once_there_are_fewer_less_is_asked_for_step_by_step():
    made = dispatch(session(slots=3000))
    asked = []
    for count in (3, 9, 33, 100, 1, 1, 1, 1, 1):
        made.may_wait(QUEUE, 0)
        round_ = begun(made)
        asked.append(round_.searches[0].most)
        search(round_, waiting(*map(str, range(count))))
    assert asked == [2, 8, 32, 128, 200, 50, 12, 3, 2]


def test_a_queue_that_nobody_served_before_is_searched_when_somebody_comes():
    made = dispatch(session())
    made.can_take(session("other", queues=["queues/second"]))
    assert begun(made).searches == [Search(Lane("queues/second", 0), 2, anew=True)]
