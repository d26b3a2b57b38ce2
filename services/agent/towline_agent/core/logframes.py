"""From the engine's log frames to the exact bytes a program wrote.

The engine cuts what a program writes into pieces: lines, and parts of 16 KiB of longer lines.
Its `local` log driver keeps every byte but one: an older engine does not give back the newline
after the last part of a long line (measured: 20.10 does not, 26.1 does). The frames are asked for with
timestamps, because the parts of one line share theirs and because a last part that is empty
would otherwise not be sent; both together tell where a newline is owed.

What cannot be told on such an engine: whether a program whose very last line is longer than
16 KiB ended it with a newline. It is assumed to have done so.
"""

import struct
from datetime import datetime
from typing import Final

__all__ = ["LogFrames", "Recent"]

_HEADER: Final = struct.Struct(">BxxxL")
_PART_BYTES: Final = 16 * 1024
# Timestamps are "2026-01-31T23:59:59.123456789Z", or with the engine's offset in place of the Z.
_SECOND_CHARS: Final = 19
_STEP_CHARS: Final = 21  # to a tenth of a second
_STAMP_CHARS: Final = 29


class Recent:
    """What a log gave within its newest two steps of time, so that its end alone can be read again.

    Two, because what stdout and stderr got at the same moment may be stored out of order.
    """

    def __init__(self) -> None:
        self._newest, self._before = b"", b""
        self._newest_bytes = self._before_bytes = 0
        self._zone = b"Z"
        self._whole = 0
        self._ordered = True

    def count(self, timestamp: bytes, size: int) -> None:
        """Note that a frame of that time gave `size` bytes."""
        step = timestamp[:_STEP_CHARS]
        self._whole += size
        if step == self._newest:
            self._newest_bytes += size
        elif step > self._newest:
            self._before, self._before_bytes = self._newest, self._newest_bytes
            self._newest, self._newest_bytes = step, size
            self._zone = timestamp[_STAMP_CHARS:]
        elif step == self._before:
            self._before_bytes += size
        else:  # the node's clock was set back
            self._ordered = False

    @property
    def since(self) -> bytes:
        """Return how the first timestamp to read again begins; empty: read from the start."""
        return (self._before or self._newest) if self._ordered else b""

    @property
    def since_unix(self) -> int:
        """Return `since` in seconds since 1970, rounded down; 0: read from the start."""
        if not self.since:
            return 0
        return int(datetime.fromisoformat((self.since[:_SECOND_CHARS] + self._zone).decode()).timestamp())

    @property
    def size(self) -> int:
        """Return how many bytes the frames from `since` on gave."""
        return self._newest_bytes + self._before_bytes if self._ordered else self._whole


class LogFrames:
    """Turns the engine's multiplexed, timestamped stream into bytes; give it the stream as it comes.

    Args:
        gives_newlines: Whether the engine is known to give the newline of a long line back; where it is
            not, the first such line that ends in one tells.
        since: Frames with timestamps before it are left out; see Recent.
    """

    def __init__(self, *, gives_newlines: bool = False, since: bytes = b"") -> None:
        self.recent = Recent()
        self._buffer = bytearray()
        self._open: dict[int, bytes] = {}
        """By source (1: stdout, 2: stderr): timestamp of the long line whose parts are coming."""
        self.gives_newlines = gives_newlines
        self._since = since

    def feed(self, data: bytes) -> bytes:
        """Return the bytes written, as far as whole frames have come."""
        self._buffer += data
        out = bytearray()
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            source, length = _HEADER.unpack_from(self._buffer, start)
            end = start + _HEADER.size + length
            if end > len(self._buffer):
                break
            timestamp, _, piece = bytes(self._buffer[start + _HEADER.size : end]).partition(b" ")
            if timestamp >= self._since:
                given = self._piece(source, timestamp, piece)
                self.recent.count(timestamp, len(given))
                out += given
            start = end
        del self._buffer[:start]
        return bytes(out)

    def _piece(self, source: int, timestamp: bytes, piece: bytes) -> bytes:
        continues = self._open.get(source) == timestamp
        if piece.endswith(b"\n"):
            self.gives_newlines |= continues
            self._open.pop(source, None)
            return piece
        if len(piece) == _PART_BYTES:
            self._open[source] = timestamp
            return piece
        self._open.pop(source, None)
        # Shorter than a part and no newline: the end of a long line, or what was written last.
        return piece + b"\n" if continues and not self.gives_newlines else piece
