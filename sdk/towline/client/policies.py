"""Time limits and retries of a submission, from what Python has: timedeltas and mappings."""

from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.duration_pb2 import Duration

from towline.errors import InvalidArgument
from towline.v1 import runs_pb2

if TYPE_CHECKING:  # exists for type checkers only
    from collections.abc import Mapping

    Cause: TypeAlias = runs_pb2.FailureCause.ValueType

__all__ = ["CAUSES", "retry_policy", "time_limits"]

CAUSES: Final = {
    name.removeprefix("FAILURE_CAUSE_").lower(): value
    for name, value in runs_pb2.FailureCause.items()
    if value not in (runs_pb2.FAILURE_CAUSE_UNSPECIFIED, runs_pb2.FAILURE_CAUSE_CANCELLED)
}
"""The causes that a run may be tried again for, by the words for them: "user_error", "oom", …"""


def time_limits(
    *, max_wait: timedelta | None = None, max_runtime: timedelta | None = None
) -> runs_pb2.TimeLimits:
    """Make the limits of a submission.

    Args:
        max_wait: Longest wait for an agent; None: the queue's.
        max_runtime: Longest life of one attempt's container; None: the queue's.
    """
    return runs_pb2.TimeLimits(max_wait=_duration(max_wait), max_runtime=_duration(max_runtime))


def retry_policy(
    retries: "Mapping[str, int] | Mapping[Cause, int]",
    *,
    first_backoff: timedelta | None = None,
    longest_backoff: timedelta | None = None,
) -> runs_pb2.RetryPolicy:
    """Make the retry policy of a submission.

    Args:
        retries: How often to try again, by cause: one of CAUSES or of the proto's values. Causes that are
            not named have the queue's number.
        first_backoff: Wait before the first retry; None: the queue's.
        longest_backoff: Longest such wait; None: the queue's.

    Raises:
        InvalidArgument: There is no such cause.
    """
    return runs_pb2.RetryPolicy(
        budgets=[
            runs_pb2.RetryBudget(cause=_cause(cause), max_retries=most) for cause, most in retries.items()
        ],
        first_backoff=_duration(first_backoff),
        longest_backoff=_duration(longest_backoff),
    )


def _cause(cause: "str | Cause") -> "Cause":
    if not isinstance(cause, str):
        return cause
    try:
        return CAUSES[cause.lower()]
    except KeyError:
        raise InvalidArgument.field("retries", f"{cause!r} is none of {', '.join(CAUSES)}") from None


def _duration(span: timedelta | None) -> Duration | None:
    if span is None:
        return None
    duration = Duration()
    duration.FromTimedelta(span)
    return duration
