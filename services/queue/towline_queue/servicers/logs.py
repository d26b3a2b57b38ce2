"""LogService over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from towline import names
from towline.errors import InvalidArgument
from towline.rpc.channel import MAX_CHUNK_BYTES
from towline.v1 import logs_pb2, logs_pb2_grpc
from towline_queue.core.log_pieces import Piece, Standing, StreamKey
from towline_queue.log_reader import LogReader, Tail
from towline_queue.log_writer import LogWriter

if TYPE_CHECKING:
    import grpc

__all__ = ["LogServicer"]

# Requests of one call that may be on their way to the disk.
_PIPELINE: Final = 32
_MAX_OFFSET: Final = 2**62

_Request: TypeAlias = logs_pb2.AppendLogsRequest
_Response: TypeAlias = logs_pb2.AppendLogsResponse
_Context: TypeAlias = "grpc.aio.ServicerContext[_Request, _Response]"


class LogServicer(logs_pb2_grpc.LogServiceServicer):
    """Translates between LogService and the log's writer and reader."""

    def __init__(self, writer: LogWriter, reader: LogReader) -> None:
        self._writer = writer
        self._reader = reader

    async def AppendLogs(  # type: ignore[override]  # the form of grpc.aio that reads and writes itself
        self, request_iterator: AsyncIterator[_Request], context: _Context
    ) -> None:
        """Write logs of an agent's attempts."""
        # Answers wait without the data, which an agent that reads none of them would keep in memory.
        answers: asyncio.Queue[tuple[_Response, asyncio.Future[Standing]] | None] = asyncio.Queue(_PIPELINE)

        async def read() -> None:
            async for request in request_iterator:
                answer = _Response(run=request.run, epoch=request.epoch, stream=request.stream)
                await answers.put((answer, await self._writer.append(_piece(request))))
            await answers.put(None)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            while (item := await answers.get()) is not None:
                answer, standing = item[0], await item[1]
                answer.committed_offset = standing.offset
                answer.stale = standing.stale
                await context.write(answer)

    async def TailLogs(
        self, request: logs_pb2.TailLogsRequest, context: Any
    ) -> AsyncIterator[logs_pb2.TailLogsResponse]:
        """Read a log from an offset."""
        wanted = Tail(
            run=names.run(request.run, "run"),
            epoch=request.epoch,
            stream=_stream(request.stream),
            offset=request.offset,
            follow=request.follow,
        )
        if wanted.epoch < 0:
            raise InvalidArgument.field("epoch", "is negative; give 0 for the newest attempt")
        async for piece in self._reader.tail(wanted):
            yield logs_pb2.TailLogsResponse(epoch=piece.key.epoch, offset=piece.start, data=piece.data)


def _piece(request: _Request) -> Piece:
    if len(request.data) > MAX_CHUNK_BYTES:
        raise InvalidArgument.field(
            "data", f"has {len(request.data)} bytes; send at most {MAX_CHUNK_BYTES} at once"
        )
    if not 0 <= request.offset <= _MAX_OFFSET:
        raise InvalidArgument.field(
            "offset", f"{request.offset} is no offset; ask with empty data where it stands"
        )
    key = StreamKey(names.run(request.run, "run"), request.epoch, _stream(request.stream))
    return Piece(key, request.offset, request.data)


def _stream(stream: int) -> int:
    if stream not in logs_pb2.LogStream.values():
        raise InvalidArgument.field("stream", f"{stream} is no log stream")
    return stream or logs_pb2.LOG_STREAM_OUTPUT
