"""Retry budgets and backoff; what becomes of a run as one of its attempts fails."""

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import InvalidArgument
from towline.v1 import runs_pb2
from towline_queue.core import transitions
from towline_queue.core.endings import Past, after_failure, lost
from towline_queue.core.retries import GiveUp, Requeue, Retry, RetryPolicy, decide, policy_of, read_policy

NOTHING = runs_pb2.RetryPolicy()
USER_ERROR = runs_pb2.FAILURE_CAUSE_USER_ERROR
OOM = runs_pb2.FAILURE_CAUSE_OOM
NODE_LOST = runs_pb2.FAILURE_CAUSE_NODE_LOST
PREEMPTED = runs_pb2.FAILURE_CAUSE_PREEMPTED
CANCELLED = runs_pb2.FAILURE_CAUSE_CANCELLED
TEN_S = timedelta(seconds=10)


def policy(budgets: dict[int, int], first_s: float | None = None, longest_s: float | None = None):
    made = runs_pb2.RetryPolicy(
        budgets=[runs_pb2.RetryBudget(cause=cause, max_retries=retries) for cause, retries in budgets.items()]
    )
    if first_s is not None:
        made.first_backoff.FromTimedelta(timedelta(seconds=first_s))
    if longest_s is not None:
        made.longest_backoff.FromTimedelta(timedelta(seconds=longest_s))
    return made


def test_the_defaults_are_those_of_the_proto():
    whole = read_policy(NOTHING)
    assert whole == RetryPolicy(
        budgets={
            runs_pb2.FAILURE_CAUSE_USER_ERROR: 0,
            runs_pb2.FAILURE_CAUSE_OOM: 0,
            runs_pb2.FAILURE_CAUSE_TIMEOUT: 0,
            runs_pb2.FAILURE_CAUSE_IMAGE_BUILD: 0,
            runs_pb2.FAILURE_CAUSE_IMAGE_PULL: 3,
            runs_pb2.FAILURE_CAUSE_NODE_LOST: 10,
            runs_pb2.FAILURE_CAUSE_PREEMPTED: 1000,
            runs_pb2.FAILURE_CAUSE_GPU_FAULT: 3,
            runs_pb2.FAILURE_CAUSE_CONTROL_PLANE: 5,
        },
        first_backoff=TEN_S,
        longest_backoff=timedelta(minutes=10),
    )


def test_a_submission_comes_before_its_queue_and_that_before_the_defaults():
    queue = policy({USER_ERROR: 1, OOM: 2}, first_s=1)
    whole = read_policy(policy_of(policy({USER_ERROR: 5}, longest_s=60), queue))
    assert (whole.budgets[USER_ERROR], whole.budgets[OOM], whole.budgets[NODE_LOST]) == (5, 2, 10)
    assert whole.first_backoff == timedelta(seconds=1)
    assert whole.longest_backoff == timedelta(seconds=60)


def test_a_wait_takes_the_place_of_the_queues_whole_not_part_by_part():
    whole = read_policy(
        policy_of(policy({}, first_s=0.5, longest_s=60), policy({}, first_s=5, longest_s=60.5))
    )
    assert whole.first_backoff == timedelta(seconds=0.5)
    assert whole.longest_backoff == timedelta(seconds=60)
    whole = read_policy(
        policy_of(policy({}, first_s=1, longest_s=2.5), policy({}, first_s=0.5, longest_s=60))
    )
    assert whole.first_backoff == timedelta(seconds=1)
    assert whole.longest_backoff == timedelta(seconds=2.5)


def test_a_whole_policy_names_every_cause_once():
    causes = [budget.cause for budget in policy_of(policy({OOM: 1}), policy({OOM: 2})).budgets]
    assert causes == [cause for cause in runs_pb2.FailureCause.values() if cause not in (0, CANCELLED)]


def test_a_long_first_wait_makes_the_longest_longer_unless_that_is_set():
    whole = read_policy(policy_of(policy({}, first_s=1200), NOTHING))
    assert whole.longest_backoff == timedelta(seconds=1200)


@pytest.mark.parametrize(
    ("given", "queue", "field"),
    [
        (policy({CANCELLED: 1}), NOTHING, "run.retry_policy.budgets[0].cause"),
        (policy({0: 1}), NOTHING, "run.retry_policy.budgets[0].cause"),
        (policy({99: 1}), NOTHING, "run.retry_policy.budgets[0].cause"),
        (policy({OOM: 1, USER_ERROR: -1}), NOTHING, "run.retry_policy.budgets[1].max_retries"),
        (policy({OOM: 1001}), NOTHING, "run.retry_policy.budgets[0].max_retries"),
        (
            runs_pb2.RetryPolicy(budgets=[runs_pb2.RetryBudget(cause=OOM, max_retries=1)] * 2),
            NOTHING,
            "run.retry_policy.budgets[1].cause",
        ),
        (policy({}, first_s=-1), NOTHING, "run.retry_policy.first_backoff"),
        (policy({}, longest_s=-1), NOTHING, "run.retry_policy.longest_backoff"),
        (policy({}, first_s=3, longest_s=2), NOTHING, "run.retry_policy.first_backoff"),
        (policy({}, first_s=30), policy({}, longest_s=20), "run.retry_policy.first_backoff"),
        (
            runs_pb2.RetryPolicy(first_backoff=Duration(seconds=2**62)),
            NOTHING,
            "run.retry_policy.first_backoff",
        ),
    ],
)
def test_what_is_wrong_is_named(given: runs_pb2.RetryPolicy, queue: runs_pb2.RetryPolicy, field: str):
    with pytest.raises(InvalidArgument) as caught:
        policy_of(given, queue)
    assert caught.value.metadata["field"] == field


@given(used=st.integers(0, 1200), chance=st.floats(0, 1), cause=st.sampled_from([USER_ERROR, OOM]))
def test_waits_double_up_to_the_longest_less_a_quarter_at_most(used: int, chance: float, cause: int):
    rules = RetryPolicy({USER_ERROR: 1000}, TEN_S, timedelta(minutes=10))
    decision = decide(rules, cause, used, chance)
    if cause == OOM or used >= 1000:
        assert decision == GiveUp()
    else:
        full = min(timedelta(minutes=10), TEN_S * 2 ** min(used, 10))
        assert isinstance(decision, Retry)
        assert full * 0.75 - timedelta(microseconds=1) <= decision.delay <= full


@pytest.mark.parametrize("cause", [NODE_LOST, PREEMPTED])
def test_what_is_not_the_runs_doing_waits_for_nothing(cause: int):
    rules = RetryPolicy({cause: 2}, TEN_S, TEN_S)
    assert [decide(rules, cause, used, 0.5) for used in range(3)] == [Requeue(), Requeue(), GiveUp()]


def test_a_cause_from_a_newer_agent_is_not_tried_again():
    assert decide(read_policy(NOTHING), 99, 0, 0.5) == GiveUp()


def past(alike: int = 1, cancel_requested: bool = False, **budgets: int) -> Past:
    most = {runs_pb2.FailureCause.Value(f"FAILURE_CAUSE_{name}"): most for name, most in budgets.items()}
    agents = [(epoch, f"agents/a{epoch}") for epoch in range(1, alike + 1)]
    return Past(cancel_requested, policy_of(policy(most), NOTHING).SerializeToString(), agents)


def failed(cause: int) -> runs_pb2.Failure:
    return runs_pb2.Failure(cause=cause, message="It failed.", exit_code=3)


@pytest.mark.parametrize(
    ("failure", "state", "move"),
    [
        (failed(USER_ERROR), past(USER_ERROR=1), transitions.RETRY),
        (failed(USER_ERROR), past(2, USER_ERROR=1), transitions.FINISH_FAILED),
        (failed(USER_ERROR), past(cancel_requested=True, USER_ERROR=1), transitions.CANCEL_RETRY),
        (failed(USER_ERROR), past(cancel_requested=True), transitions.FINISH_FAILED),
        (failed(PREEMPTED), past(), transitions.REQUEUE_PREEMPTED),
        (failed(PREEMPTED), past(cancel_requested=True), transitions.CANCEL_RETRY),
        (failed(PREEMPTED), past(PREEMPTED=0), transitions.FINISH_FAILED),
        (failed(NODE_LOST), past(), transitions.REQUEUE_LOST),
        (lost("silent"), past(), transitions.REQUEUE_LOST),
        (lost("silent"), past(11), transitions.GIVE_UP_LOST),
        (lost("silent"), past(11, cancel_requested=True), transitions.CANCEL_LOST),
    ],
)
def test_what_becomes_of_the_run(failure: runs_pb2.Failure, state: Past, move: transitions.Transition):
    ending = after_failure(failure, state, 0.5)
    assert ending.move is move
    assert (ending.failure is not None) == (move.target in transitions.TERMINAL)
    assert (ending.delay is not None) == (move.target is transitions.State.SCHEDULED)


def test_a_run_without_a_policy_of_its_own_has_the_defaults():
    """One that was submitted before there were any."""
    assert after_failure(lost("silent"), Past(False, None, [(1, "agents/a")]), 0).move is (
        transitions.REQUEUE_LOST
    )


def test_many_losses_are_counted_and_the_last_ones_named():
    ending = after_failure(lost("It was silent."), past(11), 0)
    message = runs_pb2.Failure.FromString(ending.failure).message
    assert message.startswith("Lost with its agent 11 times")
    assert "6 more, agents/a7 (epoch 7)" in message
    assert message.endswith("Last: It was silent.")


@pytest.mark.parametrize(("used", "often"), [(1, "once"), (2, "2 times")])
def test_how_often_it_was_tried_is_told(used: int, often: str):
    ending = after_failure(failed(USER_ERROR), past(used + 1, USER_ERROR=used), 0)
    assert ending.detail == f"Given up after USER_ERROR: it was tried again {often}"
    ending = after_failure(lost("It was silent."), past(used, NODE_LOST=used - 1), 0)
    assert runs_pb2.Failure.FromString(ending.failure).message.startswith(f"Lost with its agent {often}, ")


def test_a_long_reason_is_cut():
    failure = runs_pb2.Failure(cause=USER_ERROR, message="x" * 9000)
    assert len(after_failure(failure, past(USER_ERROR=1), 0).detail) < 600
