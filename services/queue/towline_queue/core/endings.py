"""What becomes of a run as one of its attempts ends: the one place that decides it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from towline.v1 import runs_pb2
from towline_queue.core import transitions
from towline_queue.core.reports import Result
from towline_queue.core.retries import GiveUp, Requeue, Retry, cause_name, decide, read_policy
from towline_queue.core.transitions import State, Transition

__all__ = ["CANCELLED", "Ending", "Past", "after_failure", "cause_of", "lost", "no_retry"]

CANCELLED: Final = runs_pb2.Failure(
    cause=runs_pb2.FAILURE_CAUSE_CANCELLED, message="Somebody asked for it to stop."
).SerializeToString()
"""Failure of a run that is CANCELLED by the queue service itself."""

_NAMED: Final = 5
_LONGEST_REASON: Final = 500


@dataclass(frozen=True)
class Past:
    """What is known of a run as one of its attempts fails.

    Attributes:
        cancel_requested: Whether somebody asked for it to stop.
        retry_policy: The serialized RetryPolicy; None: the defaults.
        alike: Epoch and agent of the attempts that ended with the same cause, this one the last.
    """

    cancel_requested: bool
    retry_policy: bytes | None
    alike: Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Ending:
    """What a run becomes.

    Attributes:
        move: The transition; its target is the run's state.
        detail: For people, on the run.
        failure: The run's, serialized, where it has ended and did not succeed.
        delay: How long it is SCHEDULED.
    """

    move: Transition
    detail: str = ""
    failure: bytes | None = None
    delay: timedelta | None = None


def lost(why: str) -> runs_pb2.Failure:
    """Make the failure of an attempt that was lost with its agent."""
    return runs_pb2.Failure(cause=runs_pb2.FAILURE_CAUSE_NODE_LOST, message=why)


def cause_of(result: Result) -> int:
    """Return why an attempt did not succeed, a towline.v1.FailureCause; 0 if it did, or none is known."""
    if result.failure is None:
        return runs_pb2.FAILURE_CAUSE_UNSPECIFIED
    cause = runs_pb2.Failure.FromString(result.failure).cause
    return cause if cause in runs_pb2.FailureCause.values() else runs_pb2.FAILURE_CAUSE_UNSPECIFIED


_SUCCEEDED: Final = Ending(transitions.FINISH_SUCCEEDED)


def no_retry(result: Result) -> Ending:
    """Say what becomes of a run whose attempt succeeded or was cancelled: it has ended likewise."""
    if result.state is State.SUCCEEDED:
        return _SUCCEEDED
    return Ending(transitions.FINISH_CANCELLED, failure=result.failure)


def after_failure(failure: runs_pb2.Failure, past: Past, chance: float) -> Ending:
    """Decide what becomes of a run whose attempt failed: it is tried again, or has ended.

    Args:
        failure: Why the attempt failed.
        past: What is known of the run.
        chance: A random number from 0 to 1.
    """
    cause = failure.cause
    is_lost = cause == runs_pb2.FAILURE_CAUSE_NODE_LOST
    policy = read_policy(runs_pb2.RetryPolicy.FromString(past.retry_policy or b""))
    used = len(past.alike) - 1
    decision = decide(policy, cause, used, chance)
    if past.cancel_requested and (is_lost or not isinstance(decision, GiveUp)):
        move = transitions.CANCEL_LOST if is_lost else transitions.CANCEL_RETRY
        return Ending(move, failure=CANCELLED)
    after = f"after {cause_name(cause)}"
    if isinstance(decision, GiveUp):
        detail = f"Given up {after}: it was tried again {_times(used)}" if used else ""
        if is_lost:
            return Ending(transitions.GIVE_UP_LOST, detail, _lost_too_often(failure, past.alike))
        return Ending(transitions.FINISH_FAILED, detail, failure.SerializeToString())
    detail = f"Tried again (retry {used + 1} of {policy.budgets[cause]} {after}): {_short(failure.message)}"
    match decision:
        case Retry(delay):
            return Ending(transitions.RETRY, detail, delay=delay)
        case Requeue():
            move = transitions.REQUEUE_LOST if is_lost else transitions.REQUEUE_PREEMPTED
            return Ending(move, detail)


def _lost_too_often(last: runs_pb2.Failure, alike: Sequence[tuple[int, str]]) -> bytes:
    """Name the attempts: a run that takes its nodes down with it should be seen for what it is."""
    named = ", ".join(f"{agent} (epoch {epoch})" for epoch, agent in alike[-_NAMED:])
    more = f"{len(alike) - _NAMED} more, " if len(alike) > _NAMED else ""
    failure = runs_pb2.Failure()
    failure.CopyFrom(last)
    failure.message = (
        f"Lost with its agent {_times(len(alike))}, the most that its retry policy allows: {more}{named}. "
        "See whether the run takes its node down, or raise the budget for NODE_LOST. "
        f"Last: {_short(last.message)}"
    )
    return failure.SerializeToString()


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _short(text: str) -> str:
    """Make what an agent says fit to stand in a row: PostgreSQL's text has no NUL characters."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"
