"""How a log is read over broken connections: decisions only, no I/O."""

from towline.errors import Internal
from towline.names import RunName
from towline.v1 import logs_pb2

__all__ = ["Reader"]


class Reader:
    """Where the reader of one log stands.

    Once a stream has broken it reads attempt by attempt: "the newest attempt" might by then be
    another one, and the rest of this one would be lost.
    """

    def __init__(self, request: logs_pb2.TailLogsRequest) -> None:
        self._asked = request
        self._opened = False
        self._offset = 0
        self.epoch = 0
        """The attempt that is read; 0 while none was heard of."""
        self.catching_up = False
        """Whether one attempt alone is read, so that those after it must be asked for."""

    @property
    def run(self) -> RunName:
        """The run whose log this is."""
        return RunName(self._asked.run)

    def request(self) -> logs_pb2.TailLogsRequest:
        """Give the request that opens the first stream, or one that goes on where the last one broke."""
        self.catching_up |= self._opened and bool(self.epoch)
        self._opened = True
        if not self.catching_up:
            return self._asked
        again = logs_pb2.TailLogsRequest()
        again.CopyFrom(self._asked)
        again.epoch, again.offset = self.epoch, self._offset
        return again

    def go_to(self, epoch: int) -> None:
        """Go on with the whole log of another attempt."""
        self.epoch, self._offset, self.catching_up = epoch, 0, True

    def read(self, piece: logs_pb2.TailLogsResponse) -> logs_pb2.TailLogsResponse | None:
        """Take a piece and give what is new in it, None if nothing is.

        Raises:
            Internal: Bytes were left out; reason LOG_GAP.
        """
        if piece.epoch != self.epoch:
            self.epoch, self._offset = piece.epoch, piece.offset
        known = self._offset - piece.offset
        if known < 0:
            raise Internal(
                f"the log of {self.run} jumped from byte {self._offset} to {piece.offset}", reason="LOG_GAP"
            )
        fresh = piece.data[known:]
        if not fresh:
            return None
        start, self._offset = self._offset, self._offset + len(fresh)
        return logs_pb2.TailLogsResponse(epoch=piece.epoch, offset=start, data=fresh)
