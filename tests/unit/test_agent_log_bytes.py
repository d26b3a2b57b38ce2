"""Log bytes: from engine frames, over offsets, to acknowledged bytes; none lost, none twice."""

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from towline_agent.core.failures import LogTail
from towline_agent.core.logframes import LogFrames
from towline_agent.core.offsets import SendWindow, Skipper
from towline_agent.core.redaction import Redactor, logins_of

PART = 16 * 1024


def engine_frames(source: int, data: bytes, *, gives_newlines: bool, clock: list[int]) -> list[bytes]:
    """Cut what a program wrote as Docker's `local` log driver does."""
    frames = []
    *lines, rest = data.split(b"\n")
    for line in [*(line + b"\n" for line in lines), rest]:
        clock[0] += 1
        stamp = b"2026-01-01T00:00:00.%09dZ " % clock[0]
        text, ended = line.removesuffix(b"\n"), line.endswith(b"\n")
        parts = [text[start : start + PART] for start in range(0, len(text), PART)]
        if len(parts) > 1 or len(text) == PART:
            if ended and len(parts[-1]) == PART:
                parts.append(b"")
            if ended and gives_newlines:
                parts[-1] += b"\n"
        elif ended:
            parts = [text + b"\n"]
        frames += [struct.pack(">BxxxL", source, len(stamp) + len(part)) + stamp + part for part in parts]
    return frames


LENGTHS = st.sampled_from([PART - 1, PART, PART + 1, 2 * PART, 100_000])
WRITTEN = st.lists(st.one_of(st.binary(max_size=40), st.just(b"\n"), LENGTHS), max_size=8)


@given(WRITTEN, st.booleans(), st.booleans(), st.integers(1, 5000))
def test_frames_give_back_what_was_written(
    written: list[bytes | int], gives_newlines: bool, known: bool, step: int
) -> None:
    data = b"".join(piece if isinstance(piece, bytes) else b"x" * piece for piece in written)
    last = data.rpartition(b"\n")[2]
    known &= gives_newlines
    if not known and len(last) > PART and not last.endswith(b"\n"):
        data += b"\n"  # the one thing that cannot be told, see the module
    stream = b"".join(engine_frames(1, data, gives_newlines=gives_newlines, clock=[0]))
    frames = LogFrames(gives_newlines=known)
    pieces = [stream[start : start + step] for start in range(0, len(stream), step)]
    assert b"".join(frames.feed(piece) for piece in pieces) == data


def test_two_sources_keep_their_order() -> None:
    clock = [0]
    out = engine_frames(1, b"a" * 20_000 + b"\n", gives_newlines=False, clock=clock)
    errors = engine_frames(2, b"oops\n", gives_newlines=False, clock=clock)
    assert LogFrames().feed(b"".join([out[0], *errors, *out[1:]])) == (
        b"a" * PART + b"oops\n" + b"a" * (20_000 - PART) + b"\n"
    )


MOMENTS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from([1, 2])), min_size=1, max_size=30)


@given(MOMENTS, st.integers(0, 30), st.booleans())
def test_the_end_of_a_log_is_read_again_alone(
    moments: list[tuple[int, int]], seen: int, by_message: bool
) -> None:
    """Whichever way an engine takes `since`, and whether or not its clock was set back."""
    frames = []
    for number, (tenth, source) in enumerate(moments):
        stamp = b"2026-01-01T00:00:%02d.%d00000000Z " % divmod(tenth, 10)
        text = b"line %d\n" % number
        frames.append(
            (tenth / 10, struct.pack(">BxxxL", source, len(stamp) + len(text)) + stamp + text, text)
        )
    first = LogFrames()
    got = b"".join(first.feed(frame) for _, frame, _ in frames[:seen])
    begin = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    late = [begin + at >= first.recent.since_unix for at, _, _ in frames]
    if not by_message:  # newer engines give all that follows the first one
        late = [any(late[: number + 1]) for number in range(len(late))]
    again = LogFrames(since=first.recent.since)
    skipper = Skipper(first.recent.size)
    for (_, frame, _), wanted in zip(frames, late, strict=True):
        if wanted:
            got += skipper.feed(again.feed(frame))
    oldest = first.recent.since.decode()
    lost = [
        text
        for number, (at, _, text) in enumerate(frames)
        if number < seen or f"2026-01-01T00:00:{at:04.1f}" >= oldest
    ]
    assert got == b"".join(lost)


def test_only_the_newest_tenths_of_a_second_are_read_again() -> None:
    recent = LogFrames().recent
    for tenth in range(1000):
        recent.count(
            b"2026-01-01T%02d:%02d:%02d.%d23456789+01:00" % (12, *divmod(tenth // 10, 60), tenth % 10), 7
        )
    assert recent.size == 14
    assert recent.since == b"2026-01-01T12:01:39.8"
    assert recent.since_unix == datetime(2026, 1, 1, 11, 1, 39, tzinfo=UTC).timestamp()


@given(st.lists(st.binary(max_size=20)), st.integers(0, 100))
def test_a_skipper_drops_exactly_its_part(pieces: list[bytes], count: int) -> None:
    skipper = Skipper(count)
    assert b"".join(skipper.feed(piece) for piece in pieces) == b"".join(pieces)[count:]


class Shipping(RuleBasedStateMachine):
    """A window, a service that takes what it is sent, and calls that break at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.window = SendWindow(0)
        self.written = b""
        self.service = b""
        self.in_flight: list[tuple[int, bytes]] = []
        self.answers: list[int] = []

    @rule(data=st.binary(max_size=30))
    def write(self, data: bytes) -> None:
        self.window.write(data)
        self.written += data

    @rule(limit=st.integers(1, 10))
    def send(self, limit: int) -> None:
        offset, data = self.window.take(limit)
        if data:
            self.in_flight.append((offset, data))

    @rule()
    def arrive(self) -> None:
        if self.in_flight:
            offset, data = self.in_flight.pop(0)
            assert offset <= len(self.service), "a gap"
            self.service += data[len(self.service) - offset :]
            self.answers.append(len(self.service))

    @rule()
    def answer(self) -> None:
        if self.answers:
            self.window.acknowledge(self.answers.pop(0))

    @rule()
    def break_call(self) -> None:
        self.in_flight, self.answers = [], []
        self.window.rewind()

    @invariant()
    def nothing_is_lost_or_made_up(self) -> None:
        assert self.written.startswith(self.service)
        assert self.window.committed <= len(self.service)
        assert self.window.written == len(self.written)
        assert self.window.unacknowledged == len(self.written) - self.window.committed


TestShipping = Shipping.TestCase


def test_an_offset_that_was_never_written_is_no_acknowledgement() -> None:
    window = SendWindow(5)
    window.write(b"abc")
    with pytest.raises(ValueError, match="acknowledged up to 9, written up to 8"):
        window.acknowledge(9)


def test_a_tail_has_40_lines_of_4_kib() -> None:
    tail = LogTail()
    for number in range(1000):
        tail.feed(b"%d\n" % number)
    assert tail.text() == "".join(f"{number}\n" for number in range(960, 1000))
    tail.feed(b"x" * 10_000)
    assert tail.text() == "x" * 4096
    tail.feed(b"\n\0\xff\n")
    assert tail.text().endswith("\n\ufffd\ufffd\n")


@given(st.integers(1, 7))
def test_credentials_never_show(step: int) -> None:
    log = b"get https://me:s3cret@host/simple\nfailed: s3cret, again me:s3cret\nend me"
    redactor = Redactor(logins_of(["https://me:s3cret@host/simple", "https://pypi.org/simple"]))
    shown = b"".join(redactor.feed(log[start : start + step]) for start in range(0, len(log), step))
    shown += redactor.end()
    assert shown == b"get https://****@host/simple\nfailed: ****, again ****\nend me"


@given(st.integers(60, 80))
def test_of_a_log_without_newlines_little_is_held_back_and_no_credential_shows(before: int) -> None:
    redactor = Redactor(logins_of(["https://me:s3cret@host/simple"]))
    log = b"x" * (64 * 1024 - 70 + before) + b"me:s3cret" + b"y" * 100_000 + b"s3cret"
    pieces = (log[start : start + 50] for start in range(0, len(log), 50))
    shown, held = b"", 0
    for number, piece in enumerate(pieces):
        shown += redactor.feed(piece)
        held = max(held, 50 * (number + 1) - len(shown))
    assert held < 64 * 1024 + 100
    shown += redactor.end()
    assert shown == log.replace(b"me:s3cret", b"****").replace(b"s3cret", b"****")


def test_a_secret_that_is_longer_than_what_is_held_of_a_line_does_not_show() -> None:
    secret = b"s" * 70_000
    redactor = Redactor({secret})
    shown = b"".join(redactor.feed(secret[start : start + 1000]) for start in range(0, len(secret), 1000))
    assert shown + redactor.feed(b"\n") + redactor.end() == b"****\n"
