"""Pieces of logs: trimmed, joined, refused."""

from hypothesis import given
from hypothesis import strategies as st

from towline_queue.core.log_pieces import Piece, StreamKey, join_pieces

KEY = StreamKey("runs/a", 1, 1)
OTHER = StreamKey("runs/a", 1, 2)


def test_repeated_bytes_are_trimmed_and_a_gap_is_refused() -> None:
    joined = join_pieces(
        {KEY: 4, OTHER: 0},
        [
            Piece(KEY, 2, b"cdef"),
            Piece(KEY, 7, b"gap"),
            Piece(KEY, 0, b"abc"),
            Piece(OTHER, 0, b"x"),
            Piece(KEY, 6, b"gh"),
            Piece(KEY, 8, b""),
        ],
    )
    assert joined.standing == [6, 6, 6, 1, 8, 8]
    assert [(chunk.key, chunk.start, chunk.data) for chunk in joined.chunks] == [
        (KEY, 4, b"efgh"),
        (OTHER, 0, b"x"),
    ]
    assert joined.sizes == {KEY: 8, OTHER: 1}


def test_large_pieces_stay_chunks_of_their_own() -> None:
    large = b"x" * 200_000
    joined = join_pieces({KEY: 0}, [Piece(KEY, 0, large), Piece(KEY, 200_000, large)])
    assert [(chunk.start, len(chunk.data)) for chunk in joined.chunks] == [(0, 200_000), (200_000, 200_000)]


@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=20))
def test_whatever_is_sent_the_stored_log_is_a_prefix_of_the_written_one(
    log: bytes, sent: list[tuple[int, int]]
) -> None:
    pieces = [Piece(KEY, start, log[start : start + length]) for start, length in sent if start <= len(log)]
    joined = join_pieces({KEY: 0}, pieces)
    stored = b"".join(chunk.data for chunk in joined.chunks)
    assert stored == log[: len(stored)]
    assert joined.sizes == {KEY: len(stored)}
    ends = 0
    for piece, standing in zip(pieces, joined.standing, strict=True):
        if piece.start <= ends:
            ends = max(ends, piece.start + len(piece.data))
        assert standing == ends
