"""How long a run may wait and how long it may run: what a submission sets, within what its queue allows."""

from datetime import timedelta
from typing import Final

from towline.durations import written
from towline.errors import InvalidArgument
from towline.v1 import runs_pb2
from towline_queue.core.durations import read_duration

__all__ = ["check_limits", "limits_of", "max_wait_of"]

_LIMITS: Final = ("max_wait", "max_runtime")


def check_limits(message: runs_pb2.TimeLimits, field: str) -> dict[str, timedelta]:
    """Return the limits that are set, by name.

    Raises:
        InvalidArgument: One is not positive, or longer than 365 days; it names the field.
    """
    limits = {}
    for name in _LIMITS:
        if message.HasField(name):
            limits[name] = read_duration(getattr(message, name), f"{field}.{name}")
            if not limits[name]:
                raise InvalidArgument.field(
                    f"{field}.{name}", "must be more than 0; leave it out for no limit"
                )
    return limits


def limits_of(
    submission: runs_pb2.TimeLimits, queue: runs_pb2.TimeLimits, field: str = "run.limits"
) -> runs_pb2.TimeLimits:
    """Return the limits of a run: the submission's, and the queue's where it sets none.

    Args:
        submission: What was asked for; checked.
        queue: What the queue sets; checked when the queue was made.
        field: Where in the request the submission's limits are.

    Raises:
        InvalidArgument: A limit of the submission has no valid value or is longer than the queue's.
    """
    allowed = check_limits(queue, "spec.limits")
    for name, wanted in check_limits(submission, field).items():
        if name in allowed and wanted > allowed[name]:
            raise InvalidArgument.field(
                f"{field}.{name}",
                f"is {written(wanted)}; the queue allows {written(allowed[name])}, give at most that",
            )
    limits = runs_pb2.TimeLimits()
    # Not MergeFrom: it goes into a Duration, and would add a submission's 0.5 s to a queue's hour.
    for part in (queue, submission):
        if part.HasField("max_wait"):
            limits.max_wait.CopyFrom(part.max_wait)
        if part.HasField("max_runtime"):
            limits.max_runtime.CopyFrom(part.max_runtime)
    return limits


def max_wait_of(limits: runs_pb2.TimeLimits) -> timedelta | None:
    """Return the longest wait for an agent; None: no limit."""
    return check_limits(limits, "limits").get("max_wait")
