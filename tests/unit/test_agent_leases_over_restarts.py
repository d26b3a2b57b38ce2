"""The agent's book of leases over give-backs and restarts, by events alone, and what results say."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core import effects as fx
from towline_agent.core.failures import succeeded
from towline_agent.core.lease import Key
from towline_agent.core.leases import LeaseBook
from towline_agent.core.orders import Restored
from towline_agent.core.phases import Phase, occupies
from towline_agent.core.stops import Signalled, Stop, StopReason, Window, stopped_result
from towline_testing.lease_books import (
    BEFORE_THIS_BOOT,
    KEY,
    book,
    cancel,
    ended,
    grant,
    kinds,
    phase,
    running,
    seconds,
    stops,
    verdict,
)

# --- leases given back


def waiting(made: LeaseBook, key: Key = KEY, run: str = "runs/a") -> None:
    """Bring a lease to where its container may be started."""
    made.granted(grant(key, run), 0, 0)
    made.grant_kept(key, 0)
    made.answered([key])
    made.renewed([key], 0)
    made.prepared(key)


PREEMPTED = stopped_result(StopReason.PREEMPTED, None, runs_pb2.TimeLimits())


def test_a_preemption_before_the_start_gives_the_lease_back() -> None:
    made = book(slots=1)
    waiting(made)
    made.cancelled(cancel(reason=leases_pb2.STOP_REASON_PREEMPTED), 1)
    assert not made.starts(KEY, 2), "the container is not started any more"
    generation = made.intake.generation
    assert kinds(made.ended(KEY, PREEMPTED)) == []
    assert [(one.lease_id, one.epoch) for one in made.releases()] == [KEY]
    assert "preempted" in made.releases()[0].reason and not made.unconfirmed()
    assert made.credits().slots == 1 and made.intake.generation > generation
    assert [lease.key for lease in made.inventory()] == [KEY], "nobody knows yet that it was given back"
    assert kinds(made.given_back([KEY])) == [fx.Clean] and made.given_back([KEY]) == []
    assert kinds(made.removed(KEY)) == [fx.Forget] and not made.leases


def test_a_preemption_after_the_start_was_asked_for_is_a_result() -> None:
    made = book()
    waiting(made)
    assert made.starts(KEY, 1)
    made.cancelled(cancel(reason=leases_pb2.STOP_REASON_PREEMPTED), 2)
    assert kinds(made.ended(KEY, PREEMPTED)) == [fx.KeepFinish] and not made.releases()


def test_what_an_earlier_start_may_have_begun_is_never_given_back() -> None:
    made = book()
    made.restored(Restored(grant(), window=Window(60, 70, StopReason.EXPIRED)), 0)
    assert made.drain(0) == []
    made.judged(verdict(leases_pb2.VERDICT_ACTION_STOP_PREEMPTED), 0, 1)
    assert kinds(made.ended(KEY, PREEMPTED)) == [fx.KeepFinish]


@pytest.mark.parametrize(
    ("limit", "words"),
    [(0.25, "0.25s"), (3, "3s"), (600, "10m"), (5405.5, "1h30m5.5s"), (90000, "1d1h")],
)
def test_a_time_limit_is_told_in_words(limit: float, words: str) -> None:
    result = stopped_result(StopReason.TIMEOUT, None, runs_pb2.TimeLimits(max_runtime=seconds(limit)))
    assert f"its limit of {words} (limits.max_runtime)" in result.failure.message


def test_what_no_start_has_begun_is_given_back() -> None:
    made = book()
    made.restored(Restored(grant(), window=Window(60, 70, StopReason.EXPIRED), begun=False), 0)
    made.judged(verdict(leases_pb2.VERDICT_ACTION_STOP_PREEMPTED), 0, 1)
    assert kinds(made.ended(KEY, PREEMPTED)) == [] and made.releases()


def test_a_start_is_on_disk_before_the_engine_is_asked_and_asked_for_again_after() -> None:
    made = book()
    waiting(made)
    lease = made.find(KEY)
    assert lease and not lease.begun
    assert made.starts(KEY, 1) == [fx.Begin(KEY)] and lease.begun
    assert made.starts(KEY, lease.stop_at) == [], "the disk was slow"


@pytest.mark.parametrize(
    ("begun", "started_at", "known"), [(False, None, False), (True, None, True), (False, 1.0, True)]
)
def test_a_restored_lease_knows_whether_it_had_begun(
    begun: bool, started_at: float | None, known: bool
) -> None:
    made = book()
    window = Window(60, 70, StopReason.EXPIRED)
    made.restored(Restored(grant(), window=window, started_at=started_at, begun=begun), 0)
    lease = made.find(KEY)
    assert lease and lease.begun is known


@pytest.mark.parametrize(
    "result", [stopped_result(StopReason.CANCELLED, None, runs_pb2.TimeLimits()), succeeded()]
)
def test_another_end_than_the_preemption_is_told(result: leases_pb2.AttemptResult) -> None:
    made = book()
    waiting(made)
    made.drain(0)
    assert kinds(made.ended(KEY, result)) == [fx.KeepFinish]


def test_a_drain_gives_back_what_has_not_begun_and_leaves_what_runs() -> None:
    made = book(slots=3)
    running(made)
    idle, offered = ("lease-2", 1), ("lease-3", 1)
    waiting(made, idle, "runs/b")
    made.granted(grant(offered, "runs/c"), 0, 0)
    effects = made.drain(1)
    ordered = [effect for effect in effects if isinstance(effect, fx.StopContainer)]
    assert [(effect.key, effect.stop.reason) for effect in ordered] == [(idle, StopReason.PREEMPTED)]
    assert kinds(made.grant_kept(offered, 1)) == [fx.Forget]
    assert not made.replies[-1].accepted and "drains" in made.replies[-1].reason
    made.ended(idle, PREEMPTED)
    assert [one.reason for one in made.releases()] == ["the agent drains"]
    assert phase(made) is Phase.RUNNING


@pytest.mark.parametrize(
    "action", [leases_pb2.VERDICT_ACTION_STOP_STALE, leases_pb2.VERDICT_ACTION_STOP_UNKNOWN]
)
def test_a_lease_that_the_queue_service_has_back_is_let_go(action: Any) -> None:
    made = book()
    waiting(made)
    made.drain(0)
    made.ended(KEY, PREEMPTED)
    assert made.judged(verdict(leases_pb2.VERDICT_ACTION_ADOPT), 1, 1) == []
    assert made.judged(verdict(leases_pb2.VERDICT_ACTION_STOP_CANCELLED), 1, 1) == []
    assert made.releases(), "it has not come back, so it is given back again"
    assert kinds(made.judged(verdict(action), 1, 1)) == [fx.Clean] and not made.releases()


# --- restarts

KEPT = Restored(grant(), window=Window(60, 70, StopReason.EXPIRED), started_at=1.0)


def test_a_restored_lease_waits_for_its_adoption_and_goes_on_with_the_time_it_had() -> None:
    made = book()
    assert made.restored(KEPT, 50) == []
    assert made.next_tick() == 60
    assert kinds(made.judged(verdict(leases_pb2.VERDICT_ACTION_ADOPT), 55, 56)) == [fx.Execute, fx.Permit]
    assert made.next_tick() == 55 + 60


def test_a_restored_lease_that_nobody_renews_ends_when_it_would_have() -> None:
    made = book()
    made.restored(KEPT, 50)
    assert kinds(made.tick(60)) == [fx.Execute, fx.StopContainer]


def test_a_restored_lease_whose_time_is_over_or_unknown_ends_now() -> None:
    for kept in (KEPT, replace(KEPT, window=None)):
        made = book()
        effects = made.restored(kept, 65)
        assert [stop.reason for stop in stops(effects)] == [StopReason.EXPIRED]
        lease = made.find(KEY)
        assert lease
        made.exited(KEY, ended(0, 64))
        assert lease.stopped_by() is None, "nobody had signalled it: it ended by itself"


def test_a_time_limit_goes_on_over_restarts() -> None:
    limited = grant(limit=100)
    made = book()
    made.restored(replace(KEPT, grant=limited), 50)
    made.judged(verdict(leases_pb2.VERDICT_ACTION_ADOPT), 50, 50)
    made.started(KEY, "container", 40)  # as a wall clock that was set would have it
    made.renewed([KEY], 95)
    assert [stop.reason for stop in stops(made.tick(101))] == [StopReason.TIMEOUT]
    made = book()
    made.restored(Restored(limited, window=Window(60, 75, StopReason.TIMEOUT)), 50)
    assert [stop.reason for stop in stops(made.tick(60))] == [StopReason.TIMEOUT]


@pytest.mark.parametrize(("ended_at", "stopped"), [(59.0, False), (62.0, True)])
def test_what_the_watchdog_ended_while_the_agent_was_away(ended_at: float, stopped: bool) -> None:
    made = book()
    effects = made.restored(replace(KEPT, signalled=Signalled(StopReason.EXPIRED, 61)), 75)
    assert kinds(effects) == [fx.Execute, fx.StopContainer]
    assert kinds(made.tick(75)) == [fx.Kill], "should it still run"
    made.judged(verdict(leases_pb2.VERDICT_ACTION_ADOPT), 76, 77)
    made.exited(KEY, ended(0, ended_at))
    lease = made.find(KEY)
    assert lease and (lease.stopped_by() is not None) is stopped


def test_what_ended_with_its_machine_is_lost_whatever_the_engine_says() -> None:
    made = book()
    made.restored(Restored(grant(), started_at=BEFORE_THIS_BOOT), 10)
    made.exited(KEY, ended(1, 9))
    lease = made.find(KEY)
    assert lease and lease.stopped_by() == Stop(StopReason.EXPIRED, timedelta(0))


def test_an_exit_that_was_kept_survives_everything() -> None:
    made = book()
    kept = Restored(grant(), exit=ended(3, BEFORE_THIS_BOOT), started_at=BEFORE_THIS_BOOT)
    assert kinds(made.restored(kept, 10)) == [fx.Execute]
    assert made.tick(1000) == [] and made.windows() == {}
    assert made.exited(KEY, ended(137, 11)) == []
    lease = made.find(KEY)
    assert lease and lease.exit == kept.exit and lease.stopped_by() is None


def test_a_result_that_was_kept_is_sent_again_as_it_was() -> None:
    made = book()
    finish = leases_pb2.Finish(lease_id=KEY[0], epoch=1, finish_id="f", result=succeeded())
    assert made.restored(Restored(grant(), finish=finish), 10) == []
    assert made.unconfirmed() == [finish] and made.credits().slots == 2


# --- words


def test_a_timeout_names_the_limit_and_a_remedy() -> None:
    result = stopped_result(StopReason.TIMEOUT, 143, grant(limit=90).spec.limits)
    assert result.failure.cause == runs_pb2.FAILURE_CAUSE_TIMEOUT and result.exit_code == 143
    assert "1m30s" in result.failure.message and "max_runtime" in result.failure.message


def test_preempted_and_expired_are_failures_that_put_the_run_back() -> None:
    none = runs_pb2.TimeLimits()
    preempted = stopped_result(StopReason.PREEMPTED, 0, none)
    assert preempted.failure.cause == runs_pb2.FAILURE_CAUSE_PREEMPTED
    assert preempted.outcome == runs_pb2.ATTEMPT_OUTCOME_FAILED and preempted.exit_code == 0
    expired = stopped_result(StopReason.EXPIRED, None, none)
    assert expired.failure.cause == runs_pb2.FAILURE_CAUSE_NODE_LOST and not expired.HasField("exit_code")
    assert stopped_result(StopReason.CANCELLED, 1, none).outcome == runs_pb2.ATTEMPT_OUTCOME_CANCELLED


def test_a_phase_that_frees_the_slot_has_no_container_that_may_run() -> None:
    free = [Phase.FINISHED, Phase.RELEASED, Phase.CONFIRMED, Phase.GONE]
    assert [phase for phase in Phase if not occupies(phase)] == free


def test_a_newer_attempt_begins_when_the_container_of_an_older_has_ended() -> None:
    made = book()
    running(made)
    newer = ("lease-2", 2)
    made.granted(grant(newer), 1, 1)
    made.grant_kept(newer, 1)
    made.ended(KEY, succeeded())
    assert fx.Execute(newer) in made.finish_kept(KEY), "whether or not that result is ever confirmed"


def test_what_the_watchdog_has_signalled_keeps_the_grace_it_was_given() -> None:
    made = book()
    effects = made.restored(replace(KEPT, signalled=Signalled(StopReason.EXPIRED, 61)), 62)
    assert [stop.grace for stop in stops(effects)] == [timedelta(seconds=8)]
    assert made.tick(69) == [] and kinds(made.tick(70)) == [fx.Kill]


def test_a_frozen_agent_that_wakes_late_knows_who_ended_the_container() -> None:
    made = book()
    running(made)
    assert kinds(made.tick(100)) == [fx.StopContainer, fx.Kill]
    made.exited(KEY, ended(137, 71), expired=Signalled(StopReason.EXPIRED, 61))
    lease = made.find(KEY)
    assert lease and lease.stopped_by()


def test_a_kill_without_a_signal_before_it_counts_as_one() -> None:
    made = book()
    running(made)
    made.tick(100)
    made.exited(KEY, ended(137, 100.1))
    lease = made.find(KEY)
    assert lease and lease.stopped_by() and lease.stopped_by() == lease.stop
