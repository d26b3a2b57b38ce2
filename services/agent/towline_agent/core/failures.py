"""How an attempt ended, in words and in the one failure taxonomy."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from towline.v1 import leases_pb2, runs_pb2

__all__ = [
    "EndedBy",
    "ExitStatus",
    "LogTail",
    "SentSignal",
    "cancelled",
    "ended_by",
    "failed",
    "from_exit",
    "from_start_error",
    "may_be_stopped",
    "may_be_told",
    "succeeded",
]

_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 40
_SIGNALS: Final = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    6: "SIGABRT",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
}
_TOLD_TO_END: Final = frozenset({1, 2, 3, 9, 15})
# A program that ends for longer than that after it was told to does so for a reason of its own.
_LATELY_S: Final = 60.0


@dataclass(frozen=True)
class ExitStatus:
    """How a container ended, as the engine tells."""

    code: int
    oom_killed: bool = False
    error: str = ""
    """Why the engine could not start it, if so."""


@dataclass(frozen=True)
class SentSignal:
    """A signal that a container got through its engine's API, or from the engine itself."""

    number: int
    before_end: float
    """Seconds between it and the container's end."""


class EndedBy(Enum):
    """Whose doing the end of a container was that nobody here has stopped."""

    PROGRAM = "program"  # its own, or the kernel's
    OUTSIDE = "outside"  # somebody stopped it through the engine, past Towline
    SHUTDOWN = "shutdown"  # the engine ended it as it was stopped, or with its machine
    UNKNOWN = "unknown"  # nobody saw it, and the engine does not remember


class LogTail:
    """The last lines of a log, at most 4 KiB and 40 lines."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the log."""
        self._bytes = (self._bytes + data)[-_TAIL_BYTES:] if len(data) < _TAIL_BYTES else data[-_TAIL_BYTES:]

    def text(self) -> str:
        """Return the tail; what is not UTF-8, and NUL, shows as a replacement character."""
        text = self._bytes.decode(errors="replace").replace("\0", "\ufffd")
        lines = text.splitlines(keepends=True)[-_TAIL_LINES:]
        return "".join(lines)


def succeeded() -> leases_pb2.AttemptResult:
    """Make the result of an attempt that did what it should."""
    return leases_pb2.AttemptResult(outcome=runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, exit_code=0)


def failed(
    cause: runs_pb2.FailureCause.ValueType, message: str, log_tail: str = ""
) -> leases_pb2.AttemptResult:
    """Make the result of an attempt that failed, for a cause other than its program's exit."""
    return leases_pb2.AttemptResult(
        outcome=runs_pb2.ATTEMPT_OUTCOME_FAILED,
        failure=runs_pb2.Failure(cause=cause, message=message, log_tail=log_tail),
    )


def cancelled(exit_code: int | None = None) -> leases_pb2.AttemptResult:
    """Make the result of an attempt that was stopped on request."""
    return leases_pb2.AttemptResult(
        outcome=runs_pb2.ATTEMPT_OUTCOME_CANCELLED,
        exit_code=exit_code,
        failure=runs_pb2.Failure(
            cause=runs_pb2.FAILURE_CAUSE_CANCELLED,
            message="The run was stopped on request.",
            exit_code=exit_code,
        ),
    )


def may_be_told(status: ExitStatus) -> bool:
    """Tell whether a container may have ended because it was told to; what succeeded did so by itself."""
    return status.code != 0 and not status.oom_killed and not status.error


def may_be_stopped(status: ExitStatus, signals: Sequence[SentSignal] | None) -> bool:
    """Tell whether the engine, should it go away just now, may be what has ended a container.

    Args:
        status: How it ended.
        signals: As in `ended_by`.
    """
    return status.code - 128 in _TOLD_TO_END or _told_to_end(signals)


def ended_by(
    status: ExitStatus, signals: Sequence[SentSignal] | None, *, was_away: bool, leaves: bool
) -> EndedBy:
    """Say whose doing it was that a container has ended which nobody here has stopped.

    Args:
        status: How it ended.
        signals: What it got through its engine; None: the engine does not remember.
        was_away: Whether the engine failed to answer while the container ran.
        leaves: Whether it went away just as the container had ended.
    """
    if not may_be_told(status) or (status.code <= 128 and not _told_to_end(signals)):
        return EndedBy.PROGRAM
    if _told_to_end(signals):
        return EndedBy.SHUTDOWN if was_away or leaves else EndedBy.OUTSIDE
    # Where the engine remembers, its having been away before has done nothing to the container.
    if leaves or (was_away and signals is None):
        return EndedBy.SHUTDOWN
    if signals is None and status.code - 128 in _TOLD_TO_END:
        return EndedBy.UNKNOWN
    return EndedBy.PROGRAM


def _told_to_end(signals: Sequence[SentSignal] | None) -> bool:
    return any(sent.number in _TOLD_TO_END and sent.before_end <= _LATELY_S for sent in signals or ())


def from_exit(
    status: ExitStatus,
    command: str,
    memory_bytes: int,
    log_tail: str,
    blamed: EndedBy = EndedBy.PROGRAM,
) -> leases_pb2.AttemptResult:
    """Classify the end of a container that nobody here asked to stop.

    Args:
        status: How it ended.
        command: What it ran, for the message; empty: the image's own entrypoint.
        memory_bytes: Its memory limit; 0: none.
        log_tail: Last lines of its log.
        blamed: Whose doing it was.
    """
    if status.code == 0:
        # Even where a child process was killed for memory: the program lived on, its word counts.
        return succeeded()
    how = f"(exit code {status.code})"
    match blamed:
        case EndedBy.OUTSIDE:
            cause = runs_pb2.FAILURE_CAUSE_CONTROL_PLANE
            message = (
                "The run was stopped from outside Towline: its container was told to end through the Docker "
                f"Engine, as `docker stop` does {how}. It is tried again as its retry policy says; use "
                "`towline run cancel` to end a run."
            )
        case EndedBy.SHUTDOWN:
            cause = runs_pb2.FAILURE_CAUSE_NODE_LOST
            message = (
                "The Docker Engine or its machine was stopped while the run was in progress, and ended its "
                f"container {how}."
            )
        case EndedBy.UNKNOWN:
            cause = runs_pb2.FAILURE_CAUSE_CONTROL_PLANE
            message = (
                "The run's container was told to end while no agent watched it, and the Docker Engine does "
                f"not remember by whom {how}."
            )
        case EndedBy.PROGRAM:
            cause = runs_pb2.FAILURE_CAUSE_OOM if status.oom_killed else runs_pb2.FAILURE_CAUSE_USER_ERROR
            message = _exit_message(status, command, memory_bytes)
    failure = runs_pb2.Failure(cause=cause, message=message, log_tail=log_tail)
    failure.exit_code = status.code
    return leases_pb2.AttemptResult(
        outcome=runs_pb2.ATTEMPT_OUTCOME_FAILED, exit_code=status.code, failure=failure
    )


def _exit_message(status: ExitStatus, command: str, memory_bytes: int) -> str:
    subject = f"`{command}`" if command else "The image's entrypoint"
    if status.oom_killed:
        limit = f" of {memory_bytes / 2**20:.0f} MiB" if memory_bytes else ""
        return (
            f"{subject} was killed because it needed more than its memory limit{limit} "
            f"(exit code {status.code}); raise `memory` in the queue's template or use less."
        )
    if status.error:
        return f"{subject} could not be started: {status.error}"
    if status.code == 127:
        return f"{subject} was not found in the image (exit code 127); check the job's entrypoint."
    if status.code == 126:
        return f"{subject} could not be executed (exit code 126); check that it is executable."
    if status.code > 128 and status.code - 128 in _SIGNALS:
        return f"{subject} was ended by {_SIGNALS[status.code - 128]} (exit code {status.code})."
    return f"{subject} exited with code {status.code}."


_NO_GPU: Final = re.compile(r"could not select device driver|nvidia-container|unknown device", re.IGNORECASE)


def from_start_error(answer: str, command: str) -> leases_pb2.AttemptResult:
    """Classify the engine's refusal to make or start a container.

    Args:
        answer: The engine's words.
        command: What the container was to run.
    """
    if _NO_GPU.search(answer):
        return failed(
            runs_pb2.FAILURE_CAUSE_CONTROL_PLANE,
            f"The engine cannot give GPUs to containers ({answer}); install the NVIDIA Container Toolkit "
            "on the node.",
        )
    subject = f"`{command}`" if command else "the image's entrypoint"
    return failed(
        runs_pb2.FAILURE_CAUSE_USER_ERROR,
        f"The container could not be started with {subject}: {answer}",
    )
