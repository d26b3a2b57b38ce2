"""What the exit code of `towline` says: one table for the code, `--help` and the documentation."""

from enum import IntEnum
from typing import Final

from towline import errors

__all__ = ["MEANING", "ExitCode", "of", "table"]


class ExitCode(IntEnum):
    """Exit codes that scripts may rely on."""

    OK = 0
    RUN_NOT_SUCCEEDED = 1
    DIFFERENT = 1
    BAD_INPUT = 2
    UNAVAILABLE = 3
    CONFLICT = 4
    INTERNAL = 5
    INTERRUPTED = 130


MEANING: Final = {
    ExitCode.OK: "done; with --follow, wait and job build: the run succeeded; job diff: nothing differs",
    ExitCode.RUN_NOT_SUCCEEDED: "with --follow, wait and job build: the run failed or was cancelled; "
    "job diff: the versions differ",
    ExitCode.BAD_INPUT: "the command line is wrong, or names something that does not exist",
    ExitCode.UNAVAILABLE: "a service cannot be reached, is overloaded or did not answer in time",
    ExitCode.CONFLICT: "the state of things forbids it: exists already, not empty, changed meanwhile",
    ExitCode.INTERNAL: "standard output cannot be written, or a defect of Towline",
    ExitCode.INTERRUPTED: "Ctrl-C; a followed run goes on",
}

_OF: Final[dict[type[errors.TowlineError], ExitCode]] = {
    errors.InvalidArgument: ExitCode.BAD_INPUT,
    errors.NotFound: ExitCode.BAD_INPUT,
    errors.OutOfRange: ExitCode.BAD_INPUT,
    errors.Unavailable: ExitCode.UNAVAILABLE,
    errors.DeadlineExceeded: ExitCode.UNAVAILABLE,
    errors.ResourceExhausted: ExitCode.UNAVAILABLE,
    errors.AlreadyExists: ExitCode.CONFLICT,
    errors.FailedPrecondition: ExitCode.CONFLICT,
    errors.Aborted: ExitCode.CONFLICT,
    errors.Internal: ExitCode.INTERNAL,
}


def of(error: errors.TowlineError) -> ExitCode:
    """Give the exit code for an error."""
    return next(_OF[cls] for cls in type(error).__mro__ if cls in _OF)


def table() -> str:
    """Write the table as text, one code a line."""
    return "\n".join(f"{code.value:>3}  {meaning}" for code, meaning in MEANING.items())
