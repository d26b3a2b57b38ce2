"""What grpc reports without Towline's ErrorInfo, told as the error it stands for."""

import grpc
import pytest

from towline import errors
from towline.rpc.status import to_error


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused", errors.Unavailable),
        (grpc.StatusCode.INTERNAL, "Internal error from Core", errors.Unavailable),
        (grpc.StatusCode.INTERNAL, "anything else", errors.Internal),
        (grpc.StatusCode.UNKNOWN, "what", errors.Internal),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "late", errors.DeadlineExceeded),
    ],
)
def test_statuses_of_grpc_itself(code: grpc.StatusCode, details: str, expected: type) -> None:
    failure = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
    error = to_error(failure, peer="the queue service at host:1")
    assert type(error) is expected
    assert "the queue service at host:1" in error.message
