"""Every error that Towline raises, on both sides of the wire.

    TowlineError
    ├── InvalidArgument       the request is wrong; sending it again will not help
    ├── NotFound              it names something that is not there
    ├── AlreadyExists         it would make something that is there
    ├── FailedPrecondition    the state of things forbids it now
    ├── Aborted               somebody else was faster: stale epoch, etag, session
    ├── OutOfRange            an offset past the end
    ├── ResourceExhausted     a bound is reached; `retry_after` says when to come back
    ├── Unavailable           a service cannot be reached or is not ready
    ├── DeadlineExceeded      no answer in time
    └── Internal              a defect

`towline.rpc.status` maps each class to one gRPC status code and back. Standard library only.
"""

from collections.abc import Mapping
from datetime import timedelta

__all__ = [
    "Aborted",
    "AlreadyExists",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "ResourceExhausted",
    "TowlineError",
    "Unavailable",
]


class TowlineError(Exception):
    """An error with a reason that programs can compare.

    Args:
        message: What is wrong and what to do about it, in one or two sentences.
        reason: UPPER_SNAKE_CASE, stable; the `reason` of google.rpc.ErrorInfo.
        metadata: Facts for programs, such as the field or the violations by path.
    """

    def __init__(self, message: str, *, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})


class InvalidArgument(TowlineError):
    """The request is wrong, whatever the state of things."""

    @classmethod
    def field(cls, field: str, problem: str) -> "InvalidArgument":
        """Say what is wrong with one field of a request; `problem` names the remedy."""
        return cls(f"{field}: {problem}", reason="INVALID_FIELD", metadata={"field": field})


class NotFound(TowlineError):
    """The request names something that does not exist."""


class AlreadyExists(TowlineError):
    """The request would make something that exists."""


class FailedPrecondition(TowlineError):
    """The state of things forbids the request; change that first."""


class Aborted(TowlineError):
    """The caller's view is out of date: stale epoch, changed etag, superseded session."""


class OutOfRange(TowlineError):
    """An offset lies past the end."""


class ResourceExhausted(TowlineError):
    """A bound is reached.

    Args:
        message: See TowlineError.
        reason: See TowlineError.
        retry_after: When it is worth trying again, if it is.
        metadata: See TowlineError.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        retry_after: timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after = retry_after


class Unavailable(TowlineError):
    """A service cannot be reached or is not ready; trying again may help."""


class DeadlineExceeded(TowlineError):
    """No answer came in time; the request may or may not have been carried out."""


class Internal(TowlineError):
    """Towline is broken; the log of the service says more."""
