"""LeaseService over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

from towline.errors import InvalidArgument
from towline.v1 import leases_pb2, leases_pb2_grpc
from towline_queue.core import lease_messages
from towline_queue.core.reports import Report
from towline_queue.leasing import Leasing
from towline_queue.session_stream import SessionStream, Stream
from towline_queue.storage.uuids import read_uuid

__all__ = ["LeaseServicer"]

_HELLO_WITHIN: Final = timedelta(seconds=10)
_MOST_FINISHES: Final = 1000


class LeaseServicer(leases_pb2_grpc.LeaseServiceServicer):
    """Serves agents.

    Args:
        leasing: What sessions need.
    """

    def __init__(self, leasing: Leasing) -> None:
        self._leasing = leasing

    async def StreamLeases(  # type: ignore[override]  # a coroutine that writes itself, not a generator
        self, request_iterator: AsyncIterator[leases_pb2.StreamLeasesRequest], context: Stream
    ) -> None:
        """Serve one agent session, see the proto."""
        hello = await _first(request_iterator)
        session = self._leasing.new_session()
        await SessionStream(session, self._leasing, context).serve(hello, request_iterator)

    async def FinishLeases(
        self, request: leases_pb2.FinishLeasesRequest, context: Any
    ) -> leases_pb2.FinishLeasesResponse:
        """Commit results without a session, see the proto."""
        if len(request.finishes) > _MOST_FINISHES:
            raise InvalidArgument.field("finishes", f"are {len(request.finishes)}, at most {_MOST_FINISHES}")
        results = lease_messages.read_finishes(request.finishes, read_uuid)
        if not results:
            return leases_pb2.FinishLeasesResponse()
        answer = await self._leasing.desk.report_from_outside(Report(results=results))
        response = leases_pb2.FinishLeasesResponse()
        lease_messages.confirm(response, answer.results)
        return response


async def _first(requests: AsyncIterator[leases_pb2.StreamLeasesRequest]) -> leases_pb2.StreamLeasesRequest:
    try:
        async with asyncio.timeout(_HELLO_WITHIN.total_seconds()):
            async for message in requests:
                return message
    except TimeoutError:
        pass
    raise InvalidArgument.field("hello", f"did not come within {_HELLO_WITHIN.total_seconds():g} s")
