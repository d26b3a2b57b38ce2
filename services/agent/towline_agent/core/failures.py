"""How an attempt ended, in words and in the one failure taxonomy."""

import re
from dataclasses import dataclass
from typing import Final

from towline.v1 import leases_pb2, runs_pb2

__all__ = [
    "ExitStatus",
    "LogTail",
    "build_failure",
    "cancelled",
    "failed",
    "from_exit",
    "from_start_error",
    "succeeded",
]

_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 40
_SIGNALS: Final = {1: "SIGHUP", 2: "SIGINT", 6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


@dataclass(frozen=True)
class ExitStatus:
    """How a container ended, as the engine tells."""

    code: int
    oom_killed: bool = False
    error: str = ""
    """Why the engine could not start it, if so."""


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


def from_exit(status: ExitStatus, command: str, memory_bytes: int, log_tail: str) -> leases_pb2.AttemptResult:
    """Classify the end of a container that nobody asked to stop.

    Args:
        status: How it ended.
        command: What it ran, for the message; empty: the image's own entrypoint.
        memory_bytes: Its memory limit; 0: none.
        log_tail: Last lines of its log.
    """
    if status.code == 0:
        # Even where a child process was killed for memory: the program lived on, its word counts.
        return succeeded()
    cause = runs_pb2.FAILURE_CAUSE_OOM if status.oom_killed else runs_pb2.FAILURE_CAUSE_USER_ERROR
    failure = runs_pb2.Failure(
        cause=cause, message=_exit_message(status, command, memory_bytes), log_tail=log_tail
    )
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


# What uv prints when it cannot install: the first that matches names the requirement.
_CULPRITS: Final = (
    re.compile(r"Because (?P<name>[\w.\-]+(?:\[[\w,.\-]+\])?) was not found in"),
    re.compile(r"Because there (?:is|are) no versions? of (?P<name>[^\s]+(?:[<>=!~]=?\S+)?)"),
    re.compile(r"Because (?P<name>[\w.\-]+==\S+) (?:has no|depends on|needs)"),
    re.compile(
        r"Failed to (?:build|download|fetch|resolve|download and build)(?: distribution)?:? `(?P<name>[^`]+)`"
    ),
    re.compile(r"Couldn't parse requirement in `[^`]*`[^\n]*\n\s*(?:Caused by: )?(?P<name>[^\n]+)"),
)


def build_failure(log_tail: str) -> leases_pb2.AttemptResult:
    """Classify a failed installation by what its log says, naming the requirement where it can be told."""
    flat = re.sub(r"\s*\n\s*", " ", re.sub(r"[\u2500-\u257f\u25b6\u00d7]+", " ", log_tail))
    flat = re.sub(r"\s{2,}", " ", flat)
    names = (pattern.search(source) for pattern in _CULPRITS for source in (flat, log_tail))
    found = next((match["name"].strip(" .,") for match in names if match), "")
    culprit = (
        f"requirement `{found}` cannot be installed"
        if found
        else "the job's requirements cannot be installed"
    )
    return failed(
        runs_pb2.FAILURE_CAUSE_IMAGE_BUILD,
        f"The image could not be built: {culprit}. The build log says why; correct the job's requirements, "
        "or give this agent an index that has them.",
        log_tail,
    )


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
