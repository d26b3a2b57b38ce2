"""Where the search for waiting runs begins: past what was taken, once that has settled."""

from hypothesis import given
from hypothesis import strategies as st

from towline_queue.core.low_water import LowWater
from towline_queue.core.matching import Lane

LANE, OTHER = Lane("queues/a", 0), Lane("queues/a", 1)
HIGH, LOW = 1, 2
_MOVES = st.sampled_from(["add", "again", "take", "sweep"])


def test_a_mark_counts_only_once_it_has_settled():
    marks = LowWater((HIGH, LOW))
    assert marks.floors(LANE, 10.0) == [0, 0]
    marks.taken(LANE, [(HIGH, 4), (HIGH, 7), (LOW, 3)])
    assert marks.floors(LANE, 10.5) == [0, 0]
    assert marks.floors(LANE, 11.5) == [0, 0]
    marks.taken(LANE, [(HIGH, 20)])
    assert marks.floors(LANE, 13.0) == [8, 4]
    assert marks.floors(LANE, 14.5) == [21, 4]
    assert marks.floors(OTHER, 14.5) == [0, 0]


def settled(*places: tuple[int, int]) -> LowWater:
    marks = LowWater((HIGH, LOW))
    marks.taken(LANE, places)
    for now_s in (10.0, 12.0, 14.0):
        marks.floors(LANE, now_s)
    return marks


def test_a_run_taken_before_the_mark_lowers_it_at_once():
    """There may be more of them: the search took no more than it was asked for."""
    marks = settled((HIGH, 50), (LOW, 60))
    marks.taken(LANE, [(HIGH, 5)])
    assert marks.floors(LANE, 14.5) == [6, 61]


def test_runs_seen_without_marks_lower_them_to_the_first():
    marks = settled((HIGH, 50), (LOW, 60))
    marks.lower(LANE, [(HIGH, 9), (HIGH, 70)])
    assert marks.floors(LANE, 14.5) == [9, 0]  # the search never came to the low ones
    marks = settled((HIGH, 50), (LOW, 60))
    marks.lower(LANE, [(LOW, 9)])
    assert marks.floors(LANE, 14.5) == [51, 9]  # and found no high one before the mark


@given(st.lists(st.tuples(_MOVES, st.integers(1, 4)), max_size=40))
def test_no_run_stays_unseen_once_all_has_been_looked_at(moves: list[tuple[str, int]]):
    """Runs wait again at old places: a search without marks must find them for good."""
    marks = LowWater((HIGH,))
    waiting: set[int] = set()
    gone: set[int] = set()
    seq, now_s = 0, 0.0
    for move, count in moves:
        now_s += 2.0
        if move == "add":
            waiting |= set(range(seq, seq + count))
            seq += count
        elif move == "again":
            again = sorted(gone)[:count]
            gone -= set(again)
            waiting |= set(again)
        else:
            floor = marks.floors(LANE, now_s)[0] if move == "take" else 0
            taken = sorted(run for run in waiting if run >= floor)[:count]
            if move == "sweep" and len(taken) == count:
                marks.lower(LANE, [(HIGH, run) for run in taken])
            marks.taken(LANE, [(HIGH, run) for run in taken])
            waiting -= set(taken)
            gone |= set(taken)
            if move == "sweep":
                for _ in range(4):
                    now_s += 2.0
                    assert marks.floors(LANE, now_s)[0] <= min(waiting, default=seq)
