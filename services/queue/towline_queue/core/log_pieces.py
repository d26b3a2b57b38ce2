"""Pieces of logs: how they join what is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["Chunk", "Joined", "Piece", "Standing", "StreamKey", "join_pieces"]

_CHUNK_BYTES: Final = 256 * 1024


class StreamKey(NamedTuple):
    """One byte stream: the run, the epoch of its attempt, and a towline.v1.LogStream."""

    run: str
    epoch: int
    stream: int


@dataclass(frozen=True)
class Piece:
    """Bytes that a writer has for a stream; `start` is the offset of the first one."""

    key: StreamKey
    start: int
    data: bytes


@dataclass(frozen=True)
class Standing:
    """Where a stream stands: the offset to go on at, and whether the writer must stop."""

    offset: int
    stale: bool


@dataclass
class Chunk:
    """Bytes to be stored; `start` is the offset of the first one."""

    key: StreamKey
    start: int
    data: bytes


@dataclass(frozen=True)
class Joined:
    """What becomes of pieces.

    Attributes:
        standing: Offset of the stream after each piece.
        chunks: What is new, without gap or overlap.
        sizes: Size of each stream afterwards.
    """

    standing: Sequence[int]
    chunks: Sequence[Chunk]
    sizes: Mapping[StreamKey, int]


def join_pieces(sizes: Mapping[StreamKey, int], pieces: Sequence[Piece]) -> Joined:
    """Join pieces, in order, to streams of the given sizes.

    Bytes that are there already are trimmed; a piece past the end is left out, and its writer learns
    from the standing where to go on. Small neighbours become one chunk.
    """
    now = dict(sizes)
    standing: list[int] = []
    chunks: list[Chunk] = []
    last: dict[StreamKey, Chunk] = {}
    for piece in pieces:
        size = now[piece.key]
        fresh = piece.data[size - piece.start :] if piece.start <= size else b""
        if fresh:
            chunk = last.get(piece.key)
            if chunk is not None and len(chunk.data) + len(fresh) <= _CHUNK_BYTES:
                chunk.data += fresh
            else:
                chunk = last[piece.key] = Chunk(piece.key, size, fresh)
                chunks.append(chunk)
            now[piece.key] = size + len(fresh)
        standing.append(now[piece.key])
    return Joined(standing, chunks, now)
