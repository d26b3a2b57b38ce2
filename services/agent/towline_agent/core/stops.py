"""Orders to stop an attempt: why, how long it may take, and what its result is then."""

from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Final

from towline.durations import written
from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core import failures

__all__ = ["Exit", "Signalled", "Stop", "StopReason", "Window", "describe", "stopped_result"]


class StopReason(IntEnum):
    """Why an attempt is stopped; a greater one replaces a smaller one.

    CANCELLED is a person's last word. TIMEOUT ends a run that a preemption would put back into its queue,
    where it would begin anew although its time is over. PREEMPTED and EXPIRED both put it back; the former
    says more. A replaced order's deadline stays in force: the reason decides on the result, the earliest
    deadline on SIGKILL.
    """

    EXPIRED = 1
    PREEMPTED = 2
    TIMEOUT = 3
    CANCELLED = 4

    @property
    def word(self) -> str:
        """Return what the stop file and the deadlines call it."""
        return "LEASE_EXPIRED" if self is StopReason.EXPIRED else self.name

    @classmethod
    def from_word(cls, word: str) -> "StopReason":
        """Return the reason that a stop file or a note names; EXPIRED for words of other versions."""
        return next((reason for reason in cls if reason.word == word), cls.EXPIRED)


@dataclass(frozen=True)
class Stop:
    """An order to stop."""

    reason: StopReason
    grace: timedelta
    """Time between the stop signal and SIGKILL."""


@dataclass(frozen=True)
class Signalled:
    """A stop signal that an earlier start of the agent, or the watchdog, has sent or was about to send."""

    reason: StopReason
    at: float
    """On the clock of leases; minus infinity: before this boot."""
    grace: timedelta | None = None
    """Time from it to SIGKILL; None: as the deadlines on disk say."""


@dataclass(frozen=True)
class Window:
    """When an attempt's container is to be stopped and killed, on the clock of leases."""

    stop_at: float
    kill_at: float
    reason: StopReason
    """EXPIRED or TIMEOUT, unless it is being stopped for another reason already."""


@dataclass(frozen=True)
class Exit:
    """How and when a container ended by the engine's word."""

    status: failures.ExitStatus
    at: float
    """On the clock of leases; minus infinity: before this boot."""
    log_read: int = 0
    """Bytes of its log that had been read by then."""
    ended_by: failures.EndedBy = failures.EndedBy.PROGRAM
    """Whose doing it was, unless it was stopped here."""


_DETAILS: Final = {
    StopReason.EXPIRED: "stopping: the lease could not be renewed",
    StopReason.PREEMPTED: "stopping to be queued again",
    StopReason.TIMEOUT: "stopping: its time limit is over",
    StopReason.CANCELLED: "stopping on request",
}


def describe(reason: StopReason) -> str:
    """Say for people why an attempt is being stopped."""
    return _DETAILS[reason]


def stopped_result(
    reason: StopReason, exit_code: int | None, limits: runs_pb2.TimeLimits
) -> leases_pb2.AttemptResult:
    """Make the result of an attempt that was stopped.

    Args:
        reason: Why.
        exit_code: Its container's; None: there was none, or nobody knows.
        limits: The run's, for the message.
    """
    match reason:
        case StopReason.CANCELLED:
            return failures.cancelled(exit_code)
        case StopReason.TIMEOUT:
            result = failures.failed(
                runs_pb2.FAILURE_CAUSE_TIMEOUT,
                "The run was stopped because it ran for longer than its limit of "
                f"{written(limits.max_runtime.ToTimedelta())} "
                "(limits.max_runtime); submit it with a longer one, or let it save its work and go on "
                "from there.",
            )
        case StopReason.PREEMPTED:
            result = failures.failed(
                runs_pb2.FAILURE_CAUSE_PREEMPTED,
                "The run was stopped to be queued again: it was preempted.",
            )
        case StopReason.EXPIRED:
            result = failures.failed(
                runs_pb2.FAILURE_CAUSE_NODE_LOST,
                "The agent could not renew its lease with the queue service and stopped the run before "
                "another agent could be given it.",
            )
    if exit_code is not None:
        result.exit_code = exit_code
        result.failure.exit_code = exit_code
    return result
