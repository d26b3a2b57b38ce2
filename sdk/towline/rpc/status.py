"""The map between Towline's errors and gRPC statuses: total, in both directions."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from towline import errors

__all__ = ["DOMAIN", "to_error", "to_status", "translated"]

DOMAIN: Final = "towline"

_CODES: Final[dict[type[errors.TowlineError], grpc.StatusCode]] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
# What either side's grpc says of a message over its bound.
# What grpc.aio reports, as INTERNAL, for a call whose connection broke while it was being written to.
_CALL_BROKE: Final = "Internal error from Core"
_TOO_LARGE: Final = re.compile(r"(Sent|Received) message larger than max")
_CLASSES: Final = {code: cls for cls, code in _CODES.items()}


def to_status(error: errors.TowlineError) -> grpc.Status:
    """Make the status that carries `error`: code, message, ErrorInfo and, for overload, RetryInfo."""
    code = next(_CODES[cls] for cls in type(error).__mro__ if cls in _CODES)
    status = status_pb2.Status(code=code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    if isinstance(error, errors.ResourceExhausted) and error.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(error.retry_after)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return rpc_status.to_status(status)


def to_error(call: grpc.RpcError, *, peer: str) -> errors.TowlineError:
    """Make the error that a failed call stands for.

    Args:
        call: What grpc raised.
        peer: The service called and its address, for the message where nobody answered.
    """
    code = call.code() if isinstance(call, grpc.Call | grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN
    message = (call.details() if isinstance(call, grpc.Call | grpc.aio.AioRpcError) else None) or str(call)
    info, retry_after = _details(call)
    if info is None and _TOO_LARGE.search(message):
        # grpc says "resource exhausted", but the same message is too large at any time.
        return errors.InvalidArgument(
            f"a message to or from {peer} is too large ({message}); send less", reason="MESSAGE_TOO_LARGE"
        )
    if info is None:
        if message == _CALL_BROKE:
            code = grpc.StatusCode.UNAVAILABLE
        message = _without_info(code, message, peer)
    cls = _CLASSES.get(code, errors.Internal)
    reason = info.reason if info else code.name
    metadata = dict(info.metadata) if info else {}
    if cls is errors.ResourceExhausted:
        return errors.ResourceExhausted(message, reason=reason, retry_after=retry_after, metadata=metadata)
    return cls(message, reason=reason, metadata=metadata)


@contextmanager
def translated(peer: str, unavailable: str = "") -> Iterator[None]:
    """Raise Towline's own errors for calls that fail.

    Args:
        peer: The service called and its address, for the message where nobody answered.
        unavailable: The reason of the Unavailable that stands for no answer, none in time included; empty:
            each stays as it is.
    """
    try:
        yield
    except grpc.aio.AioRpcError as call:
        error = to_error(call, peer=peer)
        if unavailable and isinstance(error, errors.Unavailable | errors.DeadlineExceeded):
            error = errors.Unavailable(error.message, reason=unavailable)
        raise error from call


def _details(call: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo | None, timedelta | None]:
    metadata = call.trailing_metadata() if isinstance(call, grpc.Call | grpc.aio.AioRpcError) else None
    packed = dict(metadata or ()).get("grpc-status-details-bin")
    if not isinstance(packed, bytes):
        return None, None
    info, retry_after = None, None
    for detail in status_pb2.Status.FromString(packed).details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta()
    return info, retry_after


def _without_info(code: grpc.StatusCode, message: str, peer: str) -> str:
    """Put grpc's own words, which name no service, into a sentence for people."""
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return f"{peer} cannot be reached ({message}); is it running?"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{peer} did not answer in time ({message})"
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return f"{peer} refused the message: {message}"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{peer} does not know this call ({message}); is it Towline, and as new as this client?"
        case _:
            return f"{peer}: {message}"


assert set(_CODES) == set(errors.TowlineError.__subclasses__())  # noqa: S101 - the map is total
