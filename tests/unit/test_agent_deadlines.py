"""Deadlines: what is due when, and a file that no fault can make to extend a lease."""

import errno
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline_agent.core.deadlines import Action, Deadline, Progress, due, dump, next_due, parse
from towline_agent.deadlines import Deadlines, Expired, boot_id, note_expired, read_expired

ONE = Deadline(
    lease="lease-1",
    epoch=3,
    run="runs/abc",
    container="towline-abc-3",
    signal="SIGUSR1",
    stop_at=90.0,
    kill_at=105.0,
    reason="LEASE_EXPIRED",
)
STOP, KILL = Action(ONE, "SIGUSR1"), Action(ONE, "SIGKILL")


@pytest.mark.parametrize(
    ("now", "done", "owed"),
    [
        (90.9, Progress(), []),  # the agent comes first
        (91.0, Progress(), [STOP]),
        (91.0, Progress(signalled=True), []),
        (104.9, Progress(signalled=True), []),
        (105.0, Progress(signalled=True), [KILL]),
        (200.0, Progress(), [KILL]),
        (106.0, Progress(absent_at=105.0), []),
        (107.0, Progress(absent_at=105.0), [KILL]),  # it may have been made since
    ],
)
def test_what_is_due(now: float, done: Progress, owed: list[Action]) -> None:
    assert due([ONE], {ONE.key: done}, now) == owed


def test_a_signal_that_was_sent_already_is_not_repeated() -> None:
    sent = replace(ONE, stop_at=105.0)
    assert due([sent], {}, 104.9) == []
    assert due([sent], {}, 105.0) == [Action(sent, "SIGKILL")]


def test_short_leases_have_short_margins() -> None:
    short = replace(ONE, stop_at=3.0, kill_at=3.4)
    assert due([short], {}, 3.05) == []
    assert due([short], {}, 3.1) == [Action(short, "SIGUSR1")]


def test_the_next_moment() -> None:
    assert next_due([ONE], 0) == 91.0
    assert next_due([ONE], 91.0) == 105.0
    assert next_due([ONE], 105.0) == float("inf")
    assert next_due([], 0) == float("inf")


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=4), st.integers(0, 150))
def test_nothing_is_due_early_and_all_after_its_time(spans: list[tuple[int, int]], now: int) -> None:
    deadlines = [
        replace(ONE, run=f"runs/{number}", stop_at=float(start), kill_at=float(start + length))
        for number, (start, length) in enumerate(spans)
    ]
    owed = {action.deadline: action.signal for action in due(deadlines, {}, now)}
    for deadline in deadlines:
        assert now >= deadline.stop_at or deadline not in owed
        assert now < deadline.kill_at or owed[deadline] == "SIGKILL"
        assert deadline in owed or next_due(deadlines, now) < float("inf")


def test_what_is_written_is_read_back() -> None:
    two = replace(ONE, run="runs/d", container_id="f" * 64, begun=True)
    assert parse(dump("boot", [ONE, two]), "boot") == (ONE, two)


def test_deadlines_of_another_boot_are_over() -> None:
    assert parse(dump("boot", [ONE]), "another") == ()


def test_a_moment_that_never_comes_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dump("boot", [replace(ONE, kill_at=float("inf"))])


def test_what_a_later_version_adds_is_passed_over() -> None:
    entry = json.loads(dump("boot", [ONE]))
    entry["leases"][0]["more"] = entry["more"] = 1
    del entry["leases"][0]["container_id"]
    assert parse(json.dumps(entry).encode(), "boot") == (ONE,)


@pytest.mark.parametrize("entry", [{}, {"begun": None}, {"begun": 0}])
def test_what_does_not_say_that_it_has_not_begun_may_have(entry: dict[str, object]) -> None:
    written = json.loads(dump("boot", [ONE]))
    del written["leases"][0]["begun"]
    written["leases"][0] |= entry
    (read,) = parse(json.dumps(written).encode(), "boot")
    assert read == replace(ONE, begun=True)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "3"},
        {"epoch": True},
        {"stop_at": "soon"},
        {"kill_at": None},
        {"kill_at": float("inf")},
        {"stop_at": float("nan")},
        {"container": ""},
        {"container": "../x"},
        {"container_id": 7},
        {"run": "runs/../../x"},
        {"signal": "TERM"},
        {"reason": None},
        {"lease": 1},
    ],
)
def test_reading_is_strict(change: dict[str, Any]) -> None:
    written = json.loads(dump("boot", [ONE]))
    written["leases"][0] |= change
    with pytest.raises(ValueError, match=r".+"):
        parse(json.dumps(written).encode(), "boot")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"boot_id": 1, "leases": []}', b'{"boot_id": "b"}', b"\xff"]
)
def test_what_is_no_such_file_says_nothing(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(data, "b")


@given(st.data())
def test_no_truncated_file_is_read(data: st.DataObject) -> None:
    whole = dump("boot", [ONE])
    with pytest.raises(ValueError, match=r".+"):
        parse(whole[: data.draw(st.integers(0, len(whole) - 1))], "boot")


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = Deadlines(tmp_path)
    assert file.read() is None
    file.write([ONE])
    before = file.path.stat().st_ino
    file.write([ONE, replace(ONE, epoch=4)])
    assert file.path.stat().st_ino != before
    assert Deadlines(tmp_path).read() == (ONE, replace(ONE, epoch=4))
    assert json.loads(file.path.read_bytes())["boot_id"] == boot_id()
    assert [entry.name for entry in tmp_path.iterdir()] == ["deadlines.json"]


def test_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    file = Deadlines(tmp_path)
    file.write([ONE])
    file.path.write_bytes(file.path.read_bytes()[:50])
    assert file.read() is None


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No new file can be written; what is there can be overwritten, as on a full disk."""
    with mock.patch.object(Path, "write_bytes", side_effect=OSError(errno.ENOSPC, "full")):
        yield


def test_renewals_go_on_with_a_full_disk(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = Deadlines(tmp_path)
    file.write([ONE, replace(ONE, epoch=4)])
    request.getfixturevalue("full_disk")
    later = replace(ONE, stop_at=1000.25, kill_at=1010.0)
    file.write([later])
    assert file.read() == (later,)
    with pytest.raises(OSError, match="do not fit"):
        file.write([replace(ONE, epoch=epoch) for epoch in range(100)])
    assert file.read() == (later,)


def test_the_note_of_an_end(tmp_path: Path) -> None:
    assert read_expired(tmp_path, ONE.run, ONE.epoch) is None
    with pytest.raises(FileNotFoundError):
        note_expired(tmp_path, ONE, 91.5)
    (tmp_path / "attempts" / "abc-3").mkdir(parents=True)
    note_expired(tmp_path, ONE, 91.5)
    assert read_expired(tmp_path, ONE.run, ONE.epoch) == Expired("LEASE_EXPIRED", 91.5)
