"""The agent's book of leases, by events alone: what it asks for, and what becomes of a lease."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core import effects as fx
from towline_agent.core.failures import succeeded
from towline_agent.core.lease import GotImage
from towline_agent.core.phases import Phase
from towline_agent.core.stops import Signalled, Stop, StopReason, Window
from towline_testing.lease_books import (
    KEY,
    TTL,
    book,
    cancel,
    ended,
    grant,
    kinds,
    phase,
    running,
    stops,
    verdict,
)

# --- grants


def test_a_grant_is_answered_when_it_is_on_disk_and_starts_when_the_answer_has_arrived() -> None:
    made = book()
    assert kinds(made.granted(grant(), 0, 1)) == [fx.KeepGrant] and not made.replies
    assert kinds(made.grant_kept(KEY, 2)) == [fx.Execute]
    assert made.replies[0].accepted
    assert kinds(made.renewed([KEY], 3)) == [fx.Permit]
    assert kinds(made.renewed([KEY], 4)) == []


def test_a_grant_that_cannot_be_kept_is_refused_and_nothing_is_offered_for_a_while() -> None:
    made = book()
    made.granted(grant(), 0, 1)
    assert kinds(made.grant_not_kept(KEY, "No space left on device", 2)) == [fx.Forget]
    assert not made.replies[0].accepted and "No space left" in made.replies[0].reason
    assert not made.leases and made.credits().slots == 0
    generation = made.intake.generation
    made.tick(made.next_tick())
    assert made.credits().slots == 2 and made.intake.generation > generation


def test_a_grant_that_was_kept_too_late_is_refused() -> None:
    made = book()
    made.granted(grant(), 0, 1)
    assert kinds(made.grant_kept(KEY, TTL)) == [fx.Forget]
    assert not made.replies[0].accepted and not made.leases


def test_a_grant_that_is_dropped_while_it_is_written_is_never_executed() -> None:
    made = book()
    made.granted(grant(), 0, 1)
    assert kinds(made.lost([KEY[0]], 2)) == [fx.Clean]
    assert made.grant_kept(KEY, 3) == []
    assert kinds(made.removed(KEY)) == [fx.Forget] and not made.leases


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda made: made.drain(0), "drains"),
        (lambda made: made.engine(ready=False), "Docker Engine"),
        (lambda made: made.granted(grant(("other", 1), "runs/b"), 0, 0), "no slot"),
    ],
)
def test_what_cannot_be_taken_is_refused(prepare: Any, reason: str) -> None:
    made = book(slots=1)
    prepare(made)
    assert made.granted(grant(), 0, 1) == []
    assert reason in made.replies[-1].reason


def test_how_the_image_was_got_is_told_with_every_later_word() -> None:
    made = book()
    running(made)
    made.told(KEY, "running")
    lease = made.find(KEY)
    assert lease is not None
    (event,) = lease.events_after(0)
    assert not event.image_outcome and not event.HasField("image")
    built = runs_pb2.IMAGE_OUTCOME_BUILT
    how = runs_pb2.AttemptImage(size_bytes=5, steps=[runs_pb2.ImageStep(name="install packages")])
    made.has_image(KEY, GotImage(built, "sha256:1", how))
    for detail in ("running", "keeping the outputs"):
        made.told(KEY, detail)
        (event,) = lease.events_after(0)
        told = (event.detail, event.image_outcome, event.image_id, event.image)
        assert told == (detail, built, "sha256:1", how)


def test_an_older_attempt_of_the_run_is_gone_before_a_newer_begins() -> None:
    made = book()
    running(made)
    newer = ("lease-2", 2)
    made.lost([KEY[0]], 1)
    made.granted(grant(newer), 1, 1)
    assert kinds(made.grant_kept(newer, 1)) == []
    assert kinds(made.removed(KEY)) == [fx.Forget, fx.Execute]


# --- renewal and expiry


def test_a_lease_ends_by_its_own_ttl_and_a_renewal_counts_from_when_it_was_sent() -> None:
    made = book()
    running(made)
    assert made.next_tick() == 60  # three quarters
    made.renewed([KEY], 10)
    assert made.tick(69) == []
    (stop,) = stops(made.tick(70))
    assert stop.reason is StopReason.EXPIRED
    assert stop.grace == timedelta(seconds=10)  # an eighth, as the queue's own is longer
    made.signalled(KEY, 70)
    assert made.next_tick() == 80  # seven eighths
    assert kinds(made.tick(80)) == [fx.Kill] and made.tick(81) == []
    made.exited(KEY, ended(137, 80))
    lease = made.find(KEY)
    assert lease and lease.stopped_by() and made.next_tick() == float("inf")


def test_a_renewal_that_comes_too_late_calls_nothing_back() -> None:
    made = book()
    running(made)
    made.tick(60)
    made.signalled(KEY, 60)
    made.renewed([KEY], 59)
    assert made.judged(verdict(leases_pb2.VERDICT_ACTION_ADOPT), 61, 62) == [fx.DeadlinesChanged()]
    assert kinds(made.tick(70)) == [fx.Kill]


def test_an_earlier_renewal_takes_nothing_away() -> None:
    made = book()
    running(made)
    made.renewed([KEY], 30)
    made.renewed([KEY], 20)
    assert made.windows()[KEY] == Window(90, 100, StopReason.EXPIRED)


def test_deadlines_name_what_comes_first_and_end_with_the_container() -> None:
    made = book()
    running(made, limit=20)
    assert made.windows()[KEY] == Window(20, 35, StopReason.TIMEOUT)
    made.tick(20)
    made.signalled(KEY, 21)
    assert made.windows()[KEY] == Window(36, 36, StopReason.TIMEOUT), (
        "the signal was sent: nobody sends another"
    )
    made.exited(KEY, ended(0, 22))
    assert made.windows() == {}


# --- orders


def test_a_time_limit_counts_from_the_containers_start() -> None:
    made = book()
    made.granted(grant(limit=30), 0, 0)
    made.grant_kept(KEY, 0)
    made.renewed([KEY], 25)
    made.started(KEY, "container", 5)
    assert made.tick(34) == []
    assert [stop.reason for stop in stops(made.tick(35))] == [StopReason.TIMEOUT]


@given(st.permutations([StopReason.EXPIRED, StopReason.PREEMPTED, StopReason.TIMEOUT, StopReason.CANCELLED]))
def test_the_strongest_reason_decides_and_the_earliest_deadline_kills(order: list[StopReason]) -> None:
    made = book()
    running(made, limit=10)
    does = {
        StopReason.EXPIRED: lambda: made.tick(60),
        StopReason.TIMEOUT: lambda: made.tick(10),
        StopReason.PREEMPTED: lambda: made.cancelled(cancel(reason=leases_pb2.STOP_REASON_PREEMPTED), 5),
        StopReason.CANCELLED: lambda: made.cancelled(cancel(), 5),
    }
    kill_at, strongest = float("inf"), 0
    for reason in order:
        given_orders = stops(does[reason]())
        assert all(stop.reason > strongest for stop in given_orders)
        strongest = max([strongest, *(stop.reason for stop in given_orders)])
        made.signalled(KEY, 5)
        lease = made.find(KEY)
        assert lease and lease.stop and lease.stop.reason == strongest and lease.kill_at <= kill_at
        kill_at = lease.kill_at
    assert strongest == StopReason.CANCELLED


def test_grace_begins_with_the_signal() -> None:
    made = book()
    running(made)
    assert stops(made.cancelled(cancel(grace=5), 1)) == [Stop(StopReason.CANCELLED, timedelta(seconds=5))]
    assert made.tick(30) == [], "the engine was away and no signal was sent"
    made.renewed([KEY], 29)
    made.signalled(KEY, 31)
    assert made.tick(35.9) == [] and kinds(made.tick(36)) == [fx.Kill]


def test_an_order_is_repeated_in_vain() -> None:
    made = book()
    running(made)
    assert len(stops(made.cancelled(cancel(), 1))) == 1
    assert stops(made.cancelled(cancel(), 2)) == []
    assert stops(made.cancelled(cancel(reason=leases_pb2.STOP_REASON_PREEMPTED), 2)) == []


@pytest.mark.parametrize(("ended_at", "stopped"), [(9.9, False), (10.1, True)])
def test_a_container_that_ended_before_the_signal_keeps_its_result(ended_at: float, stopped: bool) -> None:
    made = book()
    running(made)
    made.cancelled(cancel(), 9)
    made.signalled(KEY, 10)
    made.exited(KEY, ended(0, ended_at))
    lease = made.find(KEY)
    assert lease and (lease.stopped_by() is not None) is stopped


def test_the_stop_file_alone_may_end_a_program_before_the_signal_does() -> None:
    made = book()
    running(made)
    made.cancelled(cancel(grace=5), 9)
    made.announced(KEY, 10)
    assert made.tick(16) == [], "grace begins with the signal all the same"
    made.signalled(KEY, 17)
    made.exited(KEY, ended(0, 10.1))
    lease = made.find(KEY)
    assert lease and lease.stopped_by() and lease.kill_at == 22


def test_an_order_that_comes_after_the_end_changes_no_result() -> None:
    made = book()
    running(made)
    assert kinds(made.exited(KEY, ended(0, 5))) == [fx.KeepExit]
    made.cancelled(cancel(), 6)
    lease = made.find(KEY)
    assert lease and lease.stopped_by() is None


def test_what_the_watchdog_did_while_the_agent_was_frozen_counts() -> None:
    made = book()
    running(made)
    made.exited(KEY, ended(137, 71), expired=Signalled(StopReason.EXPIRED, 61))
    lease = made.find(KEY)
    assert lease and lease.stopped_by() == Stop(StopReason.EXPIRED, timedelta(0))


def test_an_attempt_that_is_stopped_before_its_container_starts_never_gets_leave() -> None:
    made = book()
    made.granted(grant(), 0, 0)
    made.grant_kept(KEY, 0)
    assert kinds(made.cancelled(cancel(), 1)) == [fx.StopContainer]
    assert kinds(made.renewed([KEY], 2)) == []


# --- results


def test_a_result_is_sent_after_it_was_kept() -> None:
    made = book()
    running(made)
    made.exited(KEY, ended(0, 5))
    assert kinds(made.ended(KEY, succeeded())) == [fx.KeepFinish] and not made.unconfirmed()
    made.finish_kept(KEY)
    (finish,) = made.unconfirmed()
    assert made.credits().slots == 2
    assert made.confirmed("another") == []
    assert kinds(made.confirmed(finish.finish_id)) == [fx.Clean]
    assert made.confirmed(finish.finish_id) == []
    assert kinds(made.removed(KEY)) == [fx.Forget] and not made.leases


def test_a_result_that_cannot_be_kept_is_sent_and_kept_later() -> None:
    made = book()
    running(made)
    made.ended(KEY, succeeded())
    made.finish_not_kept(KEY, 5)
    (finish,) = made.unconfirmed()
    assert made.credits().slots == 0, "a node that can keep nothing is offered nothing"
    (again,) = [effect for effect in made.tick(made.next_tick()) if isinstance(effect, fx.KeepFinish)]
    assert again.finish == finish
    made.finish_kept(KEY)
    assert made.next_tick() == float("inf") and len(made.unconfirmed()) == 1


def test_a_finished_attempt_that_is_dropped_is_let_go() -> None:
    made = book()
    running(made)
    made.ended(KEY, succeeded())
    made.finish_kept(KEY)
    stale = made.judged(verdict(leases_pb2.VERDICT_ACTION_STOP_STALE), 6, 7)
    assert kinds(stale) == [fx.Clean] and phase(made) is Phase.CONFIRMED
    assert made.credits().slots == 2


@pytest.mark.parametrize(
    "action", [leases_pb2.VERDICT_ACTION_STOP_UNKNOWN, leases_pb2.VERDICT_ACTION_FINISH_CONFIRMED]
)
def test_a_dropped_attempt_keeps_its_gpus_until_it_is_gone(
    action: leases_pb2.VerdictAction.ValueType,
) -> None:
    made = book(slots=1)
    running(made)
    effects = made.judged(verdict(action), 50, 65)
    assert [effect.grace for effect in effects if isinstance(effect, fx.Clean)] == [timedelta(seconds=5)]
    assert made.credits().slots == 0 and made.windows()[KEY].kill_at == 70
    assert made.ended(KEY, succeeded()) == [] and not made.unconfirmed()
    made.removed(KEY)
    assert made.credits().slots == 1


def test_a_drain_is_over_when_nothing_is_left() -> None:
    made = book()
    running(made)
    assert made.drain(0) == [] and made.drain(0) == []
    assert made.credits().slots == 0 and not made.empty
    made.lost([KEY[0]], 1)
    made.removed(KEY)
    assert made.empty
