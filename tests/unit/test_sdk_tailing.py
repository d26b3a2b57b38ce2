"""How a log is read over broken connections."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.client.tailing import Reader
from towline.errors import Internal
from towline.v1 import logs_pb2


def reader(**fields):
    return Reader(logs_pb2.TailLogsRequest(run="runs/a", follow=True, **fields))


def piece(epoch, offset, data):
    return logs_pb2.TailLogsResponse(epoch=epoch, offset=offset, data=data)


def test_what_was_asked_is_asked_again_until_something_was_heard():
    log = reader(offset=-100)
    assert log.request() == log.request() == logs_pb2.TailLogsRequest(run="runs/a", follow=True, offset=-100)
    assert not log.catching_up


def test_a_broken_stream_goes_on_in_the_same_attempt_at_the_next_byte():
    log = reader(offset=-5)
    log.request()
    assert log.read(piece(7, 95, b"hello")) == piece(7, 95, b"hello")
    again = log.request()
    assert (again.epoch, again.offset, log.catching_up) == (7, 100, True)


def test_bytes_that_came_before_are_not_given_twice():
    log = reader()
    log.request()
    log.read(piece(1, 0, b"abcd"))
    assert log.read(piece(1, 0, b"abc")) is None
    assert log.read(piece(1, 2, b"cdef")) == piece(1, 4, b"ef")


def test_the_next_attempt_of_one_stream_begins_anew():
    log = reader()
    log.request()
    log.read(piece(1, 0, b"abcd"))
    assert log.read(piece(3, 0, b"xy")) == piece(3, 0, b"xy")
    again = log.request()
    assert (again.epoch, again.offset) == (3, 2)


def test_bytes_that_are_left_out_are_an_error():
    log = reader()
    log.request()
    log.read(piece(1, 0, b"abcd"))
    with pytest.raises(Internal) as caught:
        log.read(piece(1, 9, b"x"))
    assert caught.value.reason == "LOG_GAP"


@given(
    st.binary(min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=20),
)
def test_any_overlapping_pieces_give_each_byte_once_and_in_order(log, cuts):
    read = b""
    position = reader()
    position.request()
    for start, length in [*cuts, *((at, 1) for at in range(len(log)))]:
        offset = min(start, len(read))
        if fresh := position.read(piece(1, offset, log[offset : offset + length])):
            assert fresh.offset == len(read)
            read += fresh.data
    assert read == log
