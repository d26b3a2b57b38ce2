"""What a refused call said."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta

import grpc

from towline.errors import ResourceExhausted
from towline.rpc.status import to_error


@dataclass(frozen=True)
class Refusal:
    """A status as a client sees it; equal to (code, reason)."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after: timedelta | None = None

    def __eq__(self, other: object) -> bool:
        return (self.code, self.reason) == other

    __hash__ = None  # type: ignore[assignment]  # equality with tuples has no hash


async def refusal(call: Awaitable[object]) -> Refusal:
    """Return what a call was refused with; AssertionError if it was not."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as refused:
        error = to_error(refused, peer="the service")
        retry_after = error.retry_after if isinstance(error, ResourceExhausted) else None
        return Refusal(refused.code(), error.reason, error.message, error.metadata, retry_after)
    raise AssertionError(f"not refused: {answer}")
