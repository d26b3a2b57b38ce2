"""Properties of matching: nothing over-granted, first in first out, nothing idle, nobody starved."""

from datetime import timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from towline_queue.core.matching import (
    MAX_BATCH,
    Assignment,
    Lane,
    Offer,
    WaitingRun,
    lanes,
    match,
    places,
    spread,
)

QUEUES = ("queues/a", "queues/b", "queues/c")
NEVER = timedelta(days=365)
NOW = timedelta(0)

unhurried = settings(deadline=None)  # machines that run tests are busy


@st.composite
def offers(draw: st.DrawFn) -> list[Offer]:
    made = []
    for number in range(draw(st.integers(0, 5))):
        total = draw(st.integers(0, 4))
        gpus = [f"gpu-{number}-{index}" for index in range(total)]
        made.append(
            Offer(
                session=UUID(int=number),
                agent=f"agents/a{number}",
                queues=tuple(draw(st.lists(st.sampled_from(QUEUES), min_size=1, unique=True))),
                free_slots=draw(st.integers(0, 4)),
                free_gpus=frozenset(draw(st.lists(st.sampled_from(gpus), unique=True)) if gpus else []),
                total_gpus=total,
            )
        )
    return made


@st.composite
def runs(draw: st.DrawFn) -> list[WaitingRun]:
    return [
        WaitingRun(
            run=f"runs/{seq}",
            queue=draw(st.sampled_from(QUEUES)),
            shape=draw(st.integers(0, 5)),
            priority=draw(st.integers(1, 4)),
            seq=seq,
            waited=timedelta(seconds=draw(st.integers(0, 120))),
        )
        for seq in range(draw(st.integers(0, 12)))
    ]


reserve_after = st.sampled_from([NOW, timedelta(seconds=60), NEVER])


@unhurried
@given(offers(), runs(), reserve_after)
def test_no_session_gets_more_than_it_offers(made: list[Offer], waiting: list[WaitingRun], after: timedelta):
    by_run = {run.run: run for run in waiting}
    assignments = match(made, waiting, reserve_after=after)
    assert len({assignment.run for assignment in assignments}) == len(assignments)
    for offer in made:
        mine = [assignment for assignment in assignments if assignment.session == offer.session]
        gpus = [gpu for assignment in mine for gpu in assignment.gpu_ids]
        assert len(mine) <= offer.free_slots
        assert len(gpus) == len(set(gpus))
        assert set(gpus) <= offer.free_gpus
        assert all(by_run[assignment.run].queue in offer.queues for assignment in mine)
        assert all(len(assignment.gpu_ids) == by_run[assignment.run].shape for assignment in mine)


@unhurried
@given(offers(), runs(), reserve_after)
def test_no_run_passes_one_of_its_own_kind(made: list[Offer], waiting: list[WaitingRun], after: timedelta):
    granted = {assignment.run for assignment in match(made, waiting, reserve_after=after)}
    for early in waiting:
        for late in waiting:
            same = (early.queue, early.shape) == (late.queue, late.shape)
            before = (early.priority, early.seq) < (late.priority, late.seq)
            assert not (same and before and late.run in granted and early.run not in granted)


@unhurried
@given(offers(), runs())
def test_nothing_that_fits_is_left_waiting(made: list[Offer], waiting: list[WaitingRun]):
    assignments = match(made, waiting, reserve_after=NEVER)
    granted = {assignment.run for assignment in assignments}
    for offer in made:
        mine = [assignment for assignment in assignments if assignment.session == offer.session]
        slots = offer.free_slots - len(mine)
        gpus = len(offer.free_gpus) - sum(len(assignment.gpu_ids) for assignment in mine)
        for run in waiting:
            fits = run.queue in offer.queues and slots > 0 and run.shape <= gpus
            assert run.run in granted or not fits


@unhurried
@given(offers(), runs(), reserve_after)
def test_lanes_let_everything_through_that_could_be_granted(
    made: list[Offer], waiting: list[WaitingRun], after: timedelta
):
    """Matching what the lanes take is matching everything: a lane's bound never hides a run that fits."""
    seen: list[WaitingRun] = []
    for lane, most in lanes(made).items():
        in_lane = sorted(
            (run for run in waiting if Lane(run.queue, run.shape) == lane),
            key=lambda run: (run.priority, run.seq),
        )
        if most:
            seen += in_lane[:most]
        else:
            seen += [
                next(run for run in in_lane if run.priority == priority)
                for priority in sorted({run.priority for run in in_lane})
            ]
    assert match(made, seen, reserve_after=after) == match(made, waiting, reserve_after=after)


@unhurried
@given(offers())
def test_lanes_are_bounded(made: list[Offer]):
    assert all(0 <= most <= MAX_BATCH for most in lanes(made).values())


@unhurried
@given(offers(), runs(), reserve_after)
def test_places_are_for_the_runs_that_were_matched(
    made: list[Offer], waiting: list[WaitingRun], after: timedelta
):
    """Giving the first runs of each lane to its places, in order, is what was decided run by run."""
    assignments = match(made, waiting, reserve_after=after)
    agents = {offer.session: offer.agent for offer in made}
    given_out = []
    found = places(assignments, waiting, agents)
    for lane in {place.lane for place in found}:
        in_lane = iter(
            sorted(
                (run for run in waiting if Lane(run.queue, run.shape) == lane),
                key=lambda run: (run.priority, run.seq),
            )
        )
        for place in found:
            if place.lane == lane:
                assert place.agent == agents[place.session]
                given_out += [
                    Assignment(next(in_lane).run, place.session, place.gpu_ids) for _ in range(place.slots)
                ]
    assert sorted(given_out, key=lambda one: one.run) == sorted(assignments, key=lambda one: one.run)


@unhurried
@given(offers(), st.integers(0, 4), st.integers(0, 9))
def test_one_lane_is_spread_as_its_runs_would_be_matched(made: list[Offer], shape: int, most: int):
    lane = Lane(QUEUES[0], shape)
    servers = [offer for offer in made if lane.queue in offer.queues]
    waiting = [WaitingRun(f"runs/{seq}", *lane, 3, seq, NOW) for seq in range(most)]
    matched = [(one.session, one.gpu_ids) for one in match(servers, waiting, reserve_after=NEVER)]
    chosen = spread(servers, lane, most)
    assert all(place.lane == lane and bool(place.gpu_ids) == bool(shape) for place in chosen)
    spread_out = [(place.session, place.gpu_ids) for place in chosen for _ in range(place.slots)]
    assert sorted(spread_out) == sorted(matched)


@unhurried
@given(st.integers(2, 4), st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_large_run_starts_although_small_ones_keep_coming(gpus: int, size: int, random: object):
    """One node under a stream of small runs that alone would keep it busy for ever."""
    large = min(size + 1, gpus)
    bound = timedelta(seconds=60)
    busy: dict[str, tuple[int, tuple[str, ...]]] = {}
    free = {f"gpu-{index}" for index in range(gpus)}
    seq, clock = 1, 0
    small: list[tuple[int, int]] = []  # seq, since
    while clock < 400:
        for run in [name for name, (ends, _) in busy.items() if ends <= clock]:
            free |= set(busy.pop(run)[1])
        while len(small) < 4:
            small.append((seq, clock))
            seq += 1
        waiting = [_waiting("runs/large", large, 0, clock)]
        waiting += [_waiting(f"runs/{number}", 1, number, clock - since) for number, since in small]
        offer = Offer(
            UUID(int=1), "agents/one", QUEUES[:1], free_slots=8, free_gpus=frozenset(free), total_gpus=gpus
        )
        for assignment in match([offer], waiting, reserve_after=bound):
            if assignment.run == "runs/large":
                assert clock <= 60 + 20  # the bound, and what the running ones still took
                return
            free -= set(assignment.gpu_ids)
            busy[assignment.run] = (clock + random.randint(5, 20), assignment.gpu_ids)
            small = [entry for entry in small if f"runs/{entry[0]}" != assignment.run]
        clock += 1
    raise AssertionError("starved")


def _waiting(run: str, shape: int, seq: int, waited_s: int) -> WaitingRun:
    return WaitingRun(run, QUEUES[0], shape, 3, seq, timedelta(seconds=waited_s))


def test_without_a_reservation_the_stream_would_starve_it():
    busy_node = Offer(
        UUID(int=1), "agents/one", QUEUES[:1], free_slots=8, free_gpus=frozenset({"a"}), total_gpus=2
    )
    waiting = [_waiting("runs/large", 2, 0, 100), _waiting("runs/small", 1, 1, 0)]
    passed = match([busy_node], waiting, reserve_after=NEVER)
    assert passed == [Assignment("runs/small", UUID(int=1), ("a",))]
    assert match([busy_node], waiting, reserve_after=timedelta(seconds=60)) == []


def test_work_without_gpus_goes_on_beside_a_reservation_but_leaves_it_a_slot():
    node = Offer(
        UUID(int=1), "agents/one", QUEUES[:1], free_slots=2, free_gpus=frozenset({"a"}), total_gpus=2
    )
    waiting = [_waiting("runs/large", 2, 0, 100)]
    waiting += [_waiting(f"runs/cpu-{number}", 0, number, 0) for number in (1, 2)]
    granted = match([node], waiting, reserve_after=timedelta(seconds=60))
    assert [assignment.run for assignment in granted] == ["runs/cpu-1"]


def test_a_reservation_holds_back_only_what_comes_after_it():
    node = Offer(
        UUID(int=1), "agents/one", QUEUES[:1], free_slots=1, free_gpus=frozenset({"a"}), total_gpus=2
    )
    large = WaitingRun("runs/large", QUEUES[0], 2, 3, 5, timedelta(seconds=100))
    urgent = WaitingRun("runs/urgent", QUEUES[0], 1, 1, 6, NOW)
    later = WaitingRun("runs/later", QUEUES[0], 1, 3, 7, NOW)
    granted = match([node], [large, later, urgent], reserve_after=timedelta(seconds=60))
    assert [assignment.run for assignment in granted] == ["runs/urgent"]


def test_the_tightest_gap_is_filled_first():
    wide = Offer(UUID(int=1), "agents/one", QUEUES[:1], 4, frozenset({"a", "b", "c"}), 4)
    tight = Offer(UUID(int=2), "agents/one", QUEUES[:1], 4, frozenset({"x"}), 4)
    (assignment,) = match([wide, tight], [_waiting("runs/1", 1, 0, 0)], reserve_after=NEVER)
    assert assignment.session == tight.session
