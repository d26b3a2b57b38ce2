"""Time limits of runs, and how a queue has programs stopped."""

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from towline.errors import InvalidArgument
from towline.v1 import queues_pb2, runs_pb2
from towline_queue.core.lease_policy import check_policy, policy_of
from towline_queue.core.limits import check_limits, limits_of, max_wait_of


def limits(**seconds: float) -> runs_pb2.TimeLimits:
    made = runs_pb2.TimeLimits()
    for name, value in seconds.items():
        getattr(made, name).FromTimedelta(timedelta(seconds=value))
    return made


def test_a_submission_may_set_less_than_its_queue_and_has_the_queues_otherwise():
    queue = limits(max_wait=60, max_runtime=3600)
    assert limits_of(limits(max_wait=30), queue) == limits(max_wait=30, max_runtime=3600)
    assert limits_of(limits(max_wait=60), queue) == queue
    assert limits_of(limits(), limits()) == limits()
    assert limits_of(limits(max_runtime=5), limits(max_wait=1)) == limits(max_runtime=5, max_wait=1)


def test_a_limit_takes_the_place_of_the_queues_whole_not_part_by_part():
    assert limits_of(limits(max_wait=0.5), limits(max_wait=3600)) == limits(max_wait=0.5)
    assert limits_of(limits(max_runtime=2), limits(max_runtime=3600.5)) == limits(max_runtime=2)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (limits(max_wait=61), "run.limits.max_wait"),
        (limits(max_runtime=3600.5), "run.limits.max_runtime"),
        (limits(max_wait=0), "run.limits.max_wait"),
        (limits(max_runtime=-1), "run.limits.max_runtime"),
        (runs_pb2.TimeLimits(max_wait=Duration(nanos=-1)), "run.limits.max_wait"),
    ],
)
def test_what_is_wrong_in_a_submission_is_named(given: runs_pb2.TimeLimits, field: str):
    with pytest.raises(InvalidArgument) as caught:
        limits_of(given, limits(max_wait=60, max_runtime=3600))
    assert caught.value.metadata["field"] == field


def test_the_refusal_says_what_the_queue_allows():
    with pytest.raises(InvalidArgument, match=r"is 1m1s; the queue allows 1m, give at most that"):
        limits_of(limits(max_wait=61), limits(max_wait=60))


@pytest.mark.parametrize("seconds", [366 * 86400, 2**62, -(2**62)])
def test_no_limit_is_longer_than_a_year(seconds: int):
    with pytest.raises(InvalidArgument) as caught:
        check_limits(runs_pb2.TimeLimits(max_runtime=Duration(seconds=seconds)), "spec.limits")
    assert caught.value.metadata["field"] == "spec.limits.max_runtime"
    assert check_limits(limits(max_wait=365 * 86400), "spec.limits") == {"max_wait": timedelta(days=365)}


def test_the_wait_of_a_run():
    assert max_wait_of(limits(max_wait=60)) == timedelta(minutes=1)
    assert max_wait_of(limits(max_runtime=60)) is None


def test_a_program_is_asked_to_stop_with_sigterm_unless_its_queue_says_otherwise():
    assert policy_of(queues_pb2.LeasePolicy()).stop_signal == "SIGTERM"
    assert policy_of(queues_pb2.LeasePolicy(stop_signal="SIGUSR1")).stop_signal == "SIGUSR1"


@pytest.mark.parametrize("signal", ["SIGKILL", "TERM", "15", "sigterm", "SIGTERM "])
def test_another_signal_is_refused(signal: str):
    with pytest.raises(InvalidArgument) as caught:
        policy_of(queues_pb2.LeasePolicy(stop_signal=signal))
    assert caught.value.metadata["field"] == "spec.lease_policy.stop_signal"


def test_a_lease_outlasts_a_late_heartbeat():
    policy = queues_pb2.LeasePolicy(
        heartbeat_interval=Duration(seconds=25),
        disconnected_after=Duration(seconds=30),
        lost_after=Duration(seconds=50),
    )
    check_policy(policy)
    policy.lost_after.seconds, policy.lost_after.nanos = 49, 999_999_000
    with pytest.raises(InvalidArgument) as caught:
        check_policy(policy)
    assert caught.value.metadata["field"] == "spec.lease_policy.lost_after"


def lease_policy(**seconds: float) -> queues_pb2.LeasePolicy:
    made = queues_pb2.LeasePolicy()
    for name, value in seconds.items():
        getattr(made, name).FromTimedelta(timedelta(seconds=value))
    return made


BARELY = {"heartbeat_interval": 0.1, "disconnected_after": 0.3, "lost_after": 1, "stop_grace": 3600}


def test_the_outermost_times_that_a_queue_may_ask_for():
    check_policy(lease_policy(**BARELY))


@pytest.mark.parametrize(
    ("times", "refusal"),
    [
        ({"heartbeat_interval": 0.099}, "heartbeat_interval: is 0.099s; give 0.1s or more"),
        ({"disconnected_after": 0.299}, "disconnected_after: is 0.299s; give 0.3s or more"),
        ({"lost_after": 0.999}, "lost_after: is 0.999s; give 1s or more"),
        ({"stop_grace": 3600.5}, "stop_grace: is 1h0.5s; give at most 1h"),
        (
            {"heartbeat_interval": 0.001, "disconnected_after": 0.002, "lost_after": 0.005},
            "heartbeat_interval: is 0.001s; give 0.1s or more",
        ),
    ],
)
def test_no_queue_wears_an_agent_out_or_has_it_wait_for_hours(times: dict[str, float], refusal: str):
    kept = lease_policy(**BARELY | times)
    with pytest.raises(InvalidArgument) as caught:
        check_policy(kept)
    assert str(caught.value) == f"spec.lease_policy.{refusal}"
    assert policy_of(kept).stop_grace.total_seconds() == times.get("stop_grace", 3600)
