"""Each invariant, broken in a small history, is found; a history as it should be has none."""

import pytest

from towline_testing.history import (
    CancelAcknowledged,
    Died,
    Event,
    Granted,
    History,
    Kind,
    LeaseEnded,
    ResultCommitted,
    RunEnded,
    Seen,
    Standing,
    Started,
    Submitted,
    violations,
)

R = "runs/r"
A, B = "agents/a", "agents/b"


def kinds(*events: Event, all_ended: bool = False) -> list[Kind]:
    return [broken.kind for broken in violations(History(list(events)), all_ended=all_ended)]


GOOD = (
    Submitted(0, R),
    Seen(0.5, R, Standing.WAITING),
    Granted(1, R, 1, A, ("g0", "g1")),
    Started(2, R, 1, "c1"),
    Seen(2.5, R, Standing.HELD),
    Died(3, R, 1, "c1"),
    LeaseEnded(4, R, 1),
    Granted(5, R, 3, A, ("g0",)),
    Started(6, R, 3, "c3"),
    Died(7, R, 3, "c3"),
    ResultCommitted(8, R, 3, "f"),
    LeaseEnded(8, R, 3),
    RunEnded(8, R, "SUCCEEDED"),
    CancelAcknowledged(9, R),
    Seen(9, R, Standing.ENDED),
)


def test_a_history_as_it_should_be_breaks_nothing() -> None:
    assert kinds(*GOOD, all_ended=True) == []


def test_an_unacknowledged_run_may_be_gone() -> None:
    assert kinds(Seen(1, R, Standing.GONE)) == []


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ((Submitted(0, R), Seen(1, R, Standing.GONE)), Kind.LOST),
        ((Submitted(0, R), Seen(1, R, Standing.STUCK)), Kind.STUCK),
        (
            (
                Granted(1, R, 1, A),
                ResultCommitted(2, R, 1, "f"),
                ResultCommitted(3, R, 1, "g"),
                LeaseEnded(3, R, 1),
            ),
            Kind.DUPLICATE,
        ),
        ((RunEnded(1, R, "FAILED"), RunEnded(2, R, "SUCCEEDED")), Kind.DUPLICATE),
        ((Granted(1, R, 2, A), LeaseEnded(2, R, 2), Granted(3, R, 2, B)), Kind.EPOCH),
        ((Granted(1, R, 2, A), LeaseEnded(2, R, 2), Granted(3, R, 1, B)), Kind.EPOCH),
        ((Granted(1, R, 1, A), Granted(2, R, 2, B)), Kind.DOUBLE_LEASE),
        (
            (Granted(1, R, 1, A), LeaseEnded(2, R, 1), Granted(3, R, 2, B), ResultCommitted(4, R, 1, "f")),
            Kind.STALE,
        ),
        ((Granted(1, R, 1, A), LeaseEnded(2, R, 1), ResultCommitted(3, R, 1, "f")), Kind.STALE),
        ((Granted(1, R, 1, A, ("g",)), Granted(2, "runs/s", 1, A, ("h", "g"))), Kind.GPU),
        ((Started(1, R, 1, "c"), Started(2, R, 2, "d"), Died(3, R, 1, "c")), Kind.OVERLAP),
        ((Started(1, R, 1, "c"), Died(2, R, 1, "c"), Started(3, R, 1, "d")), Kind.AGAIN),
        ((RunEnded(1, R, "FAILED"), Granted(2, R, 1, A)), Kind.AFTER_END),
        ((RunEnded(1, R, "FAILED"), Started(2, R, 1, "c")), Kind.AFTER_END),
        ((CancelAcknowledged(1, R), Granted(2, R, 1, A)), Kind.CANCEL),
    ],
)
def test_a_broken_invariant_is_found_and_named(events: tuple[Event, ...], kind: Kind) -> None:
    assert kinds(*events) == [kind]


def test_the_same_gpu_name_on_two_agents_is_two_gpus() -> None:
    assert kinds(Granted(1, R, 1, A, ("g",)), Granted(2, "runs/s", 1, B, ("g",))) == []


def test_containers_of_two_runs_may_run_at_once() -> None:
    assert kinds(Started(1, R, 1, "c"), Started(2, "runs/s", 1, "d")) == []


def test_containers_may_follow_each_other_without_a_pause() -> None:
    assert kinds(Started(1, R, 1, "c"), Died(2, R, 1, "c"), Started(2, R, 2, "d")) == []


def test_at_the_end_every_acknowledged_run_has_ended() -> None:
    waiting = (Submitted(0, R), Seen(1, R, Standing.WAITING))
    assert kinds(*waiting) == []
    assert kinds(*waiting, all_ended=True) == [Kind.STUCK]
