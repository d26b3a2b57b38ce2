"""Why an attempt is to be stopped, as far as the queue service has it stopped."""

from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum

from towline.v1 import leases_pb2

__all__ = ["Stop", "StopReason", "stop_reason"]


class StopReason(IntEnum):
    """Why the queue service has an attempt stopped: towline.v1.StopReason."""

    CANCELLED = leases_pb2.STOP_REASON_CANCELLED
    PREEMPTED = leases_pb2.STOP_REASON_PREEMPTED


@dataclass(frozen=True)
class Stop:
    """An attempt is to be stopped: why, and the time between its stop signal and SIGKILL."""

    reason: StopReason
    grace: timedelta


def stop_reason(epoch: int, *, cancel_requested: bool, preempt_epoch: int | None) -> StopReason | None:
    """Say why the attempt with this epoch is to be stopped, if it is: a cancel counts before a preemption.

    Args:
        epoch: Of the attempt.
        cancel_requested: Whether somebody cancelled the run.
        preempt_epoch: Epoch of the attempt that is to be preempted; it is void for any other.
    """
    if cancel_requested:
        return StopReason.CANCELLED
    return StopReason.PREEMPTED if preempt_epoch == epoch else None
