"""Whether a run is tried again: budgets per cause, and how long to wait.

A run's policy is fixed when it is submitted. Retries are counted over the run's attempts, cause by
cause, so that a lost node never eats what the user gave for failures of the program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from towline.durations import written
from towline.errors import InvalidArgument
from towline.v1 import runs_pb2
from towline_queue.core.durations import LONGEST, read_duration

__all__ = ["GiveUp", "Requeue", "Retry", "RetryPolicy", "cause_name", "decide", "policy_of", "read_policy"]

_MOST: Final = 1000
_FIRST_BACKOFF: Final = timedelta(seconds=10)
_LONGEST_BACKOFF: Final = timedelta(minutes=10)
_NEVER: Final = frozenset({runs_pb2.FAILURE_CAUSE_UNSPECIFIED, runs_pb2.FAILURE_CAUSE_CANCELLED})
_DEFAULTS: Final[Mapping["runs_pb2.FailureCause.ValueType", int]] = {
    cause: 0 for cause in runs_pb2.FailureCause.values() if cause not in _NEVER
} | {
    runs_pb2.FAILURE_CAUSE_IMAGE_PULL: 3,
    runs_pb2.FAILURE_CAUSE_GPU_FAULT: 3,
    runs_pb2.FAILURE_CAUSE_CONTROL_PLANE: 5,
    runs_pb2.FAILURE_CAUSE_NODE_LOST: 10,
    runs_pb2.FAILURE_CAUSE_PREEMPTED: _MOST,
}
# Not the run's doing: it keeps its place in the queue, and nothing is gained by a wait.
_AT_ONCE: Final = frozenset({runs_pb2.FAILURE_CAUSE_NODE_LOST, runs_pb2.FAILURE_CAUSE_PREEMPTED})
# A random part of up to this much is taken off a wait, so that runs that failed together part.
_JITTER: Final = 0.25


@dataclass(frozen=True)
class RetryPolicy:
    """How often a run is tried again for each cause, and the waits before it.

    Attributes:
        budgets: Retries by towline.v1.FailureCause; a cause that is not there has none.
        first_backoff: Before the first retry for a cause; it doubles with each further one.
        longest_backoff: The most it grows to.
    """

    budgets: Mapping[int, int]
    first_backoff: timedelta
    longest_backoff: timedelta


@dataclass(frozen=True)
class Retry:
    """The run is SCHEDULED again after a wait."""

    delay: timedelta


@dataclass(frozen=True)
class Requeue:
    """The run is QUEUED again at its old place."""


@dataclass(frozen=True)
class GiveUp:
    """The run FAILED."""


def decide(policy: RetryPolicy, cause: int, used: int, chance: float) -> Retry | Requeue | GiveUp:
    """Decide what becomes of a run as one of its attempts failed.

    Args:
        policy: The run's.
        cause: A towline.v1.FailureCause.
        used: Attempts before this one that ended with that cause.
        chance: A random number from 0 to 1.
    """
    if used >= policy.budgets.get(cause, 0):
        return GiveUp()
    if cause in _AT_ONCE:
        return Requeue()
    wait = min(policy.longest_backoff.total_seconds(), policy.first_backoff.total_seconds() * 2.0**used)
    return Retry(timedelta(seconds=wait * (1 - _JITTER * chance)))


def policy_of(
    submission: runs_pb2.RetryPolicy, queue: runs_pb2.RetryPolicy, field: str = "run.retry_policy"
) -> runs_pb2.RetryPolicy:
    """Return a whole policy: the submission's, the queue's and then the defaults where nothing is set.

    Args:
        submission: What was asked for.
        queue: What the queue sets.
        field: Where in the request `submission` is.

    Raises:
        InvalidArgument: A budget or a wait of the submission is out of bounds, a cause comes twice or is
            never tried again, or the first wait is longer than the longest; it names the field.
    """
    _check_budgets(submission, field)
    whole = dict(_DEFAULTS)
    for part in (queue, submission):
        whole |= {budget.cause: budget.max_retries for budget in part.budgets}
    given = (submission, queue)
    first = _backoff(given, "first_backoff", field, _FIRST_BACKOFF)
    longest = _backoff(given, "longest_backoff", field, max(first, _LONGEST_BACKOFF))
    if first > longest:
        raise InvalidArgument.field(
            f"{field}.first_backoff",
            f"is {written(first)}, longer than longest_backoff ({written(longest)}); give at most that",
        )
    merged = runs_pb2.RetryPolicy()
    for cause, most in sorted(whole.items()):
        merged.budgets.add(cause=cause, max_retries=most)
    merged.first_backoff.FromTimedelta(first)
    merged.longest_backoff.FromTimedelta(longest)
    return merged


def read_policy(whole: runs_pb2.RetryPolicy) -> RetryPolicy:
    """Read a policy that `policy_of` made; one without anything in it is that of the defaults."""
    if not whole.budgets:
        whole = policy_of(whole, runs_pb2.RetryPolicy())
    return RetryPolicy(
        budgets={budget.cause: budget.max_retries for budget in whole.budgets},
        first_backoff=whole.first_backoff.ToTimedelta(),
        longest_backoff=whole.longest_backoff.ToTimedelta(),
    )


def _check_budgets(message: runs_pb2.RetryPolicy, field: str) -> None:
    seen: set[int] = set()
    for index, budget in enumerate(message.budgets):
        path = f"{field}.budgets[{index}]"
        if budget.cause not in _DEFAULTS:
            known = ", ".join(cause_name(cause) for cause in sorted(_DEFAULTS))
            raise InvalidArgument.field(
                f"{path}.cause", f"{cause_name(budget.cause)} is never tried again; take one of {known}"
            )
        if budget.cause in seen:
            raise InvalidArgument.field(
                f"{path}.cause", f"{cause_name(budget.cause)} comes twice; give it once"
            )
        seen.add(budget.cause)
        if not 0 <= budget.max_retries <= _MOST:
            raise InvalidArgument.field(f"{path}.max_retries", f"is {budget.max_retries}; give 0 to {_MOST}")


def _backoff(
    given: Sequence[runs_pb2.RetryPolicy],
    name: Literal["first_backoff", "longest_backoff"],
    field: str,
    default: timedelta,
) -> timedelta:
    """Read a wait from the first policy that sets it: never merged, which would add a Duration's parts."""
    for policy in given:
        if policy.HasField(name):
            return read_duration(getattr(policy, name), f"{field}.{name}", LONGEST)
    return default


def cause_name(cause: "runs_pb2.FailureCause.ValueType") -> str:
    """Return a cause as people write it, such as "NODE_LOST"."""
    if cause not in runs_pb2.FailureCause.values():
        return str(cause)
    return runs_pb2.FailureCause.Name(cause).removeprefix("FAILURE_CAUSE_")
