"""Durations on the command line are read as people mean them, and written so that they can be read again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline import durations
from towline.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("7d", 604800),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        (" 1.5h ", 5400),
        ("500ms", 0.5),
        ("1d2h3m4.5s", 93784.5),
        ("0s", 0),
        ("90m", 5400),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert durations.parse(text, "--x") == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2x", "--max-runtime: '2x' is no duration; write one such as 90s, 30m, 2h, 1h30m or 7d"),
        ("", "is no duration"),
        ("h", "is no duration"),
        ("-5s", "is no duration"),
        ("30m1h", "is no duration"),
        ("1h1h", "is no duration"),
        ("1h30", "is no duration"),
        ("1:30", "is no duration"),
        ("2 hours", "is no duration"),
        ("1e3s", "is no duration"),
        ("30", "'30' has no unit; write 30s, 30m, 30h or 30d"),
        ("0.5", "'0.5' has no unit; write 0.5s"),
        ("366d", "'366d' is too long; give 365d at most"),
        ("9999999999999999d", "is too long"),
        ("9" * 400 + "s", "is too long"),
    ],
)
def test_what_is_none_is_refused_with_the_option_and_the_remedy(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        durations.parse(text, "--max-runtime")
    assert raised.value.message.startswith("--max-runtime: ")
    assert problem in raised.value.message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (5, "5s"), (5400, "1h30m"), (86400, "1d"), (0.5, "0.5s"), (60.000001, "1m0.000001s")],
)
def test_durations_are_written_short(seconds: float, text: str) -> None:
    assert durations.written(timedelta(seconds=seconds)) == text


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(days=365)))
def test_what_is_written_is_read_as_the_same(span: timedelta) -> None:
    assert durations.parse(durations.written(span), "--x") == span
