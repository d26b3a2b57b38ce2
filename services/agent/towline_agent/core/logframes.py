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
from typing import Final

__all__ = ["LogFrames"]

_HEADER: Final = struct.Struct(">BxxxL")
_PART_BYTES: Final = 16 * 1024


class LogFrames:
    """Turns the engine's multiplexed, timestamped stream into bytes; give it the stream as it comes.

    Args:
        gives_newlines: Whether the engine is known to give the newline of a long line back; where it is
            not, the first such line that ends in one tells.
    """

    def __init__(self, *, gives_newlines: bool = False) -> None:
        self._buffer = bytearray()
        self._open: dict[int, bytes] = {}
        """By source (1: stdout, 2: stderr): timestamp of the long line whose parts are coming."""
        self._gives_newlines = gives_newlines

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
            out += self._piece(source, bytes(self._buffer[start + _HEADER.size : end]))
            start = end
        del self._buffer[:start]
        return bytes(out)

    def _piece(self, source: int, frame: bytes) -> bytes:
        timestamp, _, piece = frame.partition(b" ")
        continues = self._open.get(source) == timestamp
        if piece.endswith(b"\n"):
            self._gives_newlines |= continues
            self._open.pop(source, None)
            return piece
        if len(piece) == _PART_BYTES:
            self._open[source] = timestamp
            return piece
        self._open.pop(source, None)
        # Shorter than a part and no newline: the end of a long line, or what was written last.
        return piece + b"\n" if continues and not self._gives_newlines else piece
