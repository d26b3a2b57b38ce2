"""The tables of a session's states are closed, and drawn as they are."""

from pathlib import Path

import pytest

from towline_queue.core import session_states
from towline_queue.core.session_states import DATABASE_TABLE, STREAM_TABLE, Phase, Standing


def test_nothing_leaves_an_end():
    assert not [move for move in STREAM_TABLE if Phase.CLOSED in move.sources]
    assert not [move for move in DATABASE_TABLE if Standing.OVER in move.sources]


@pytest.mark.parametrize("phase", sorted(set(Phase) - {Phase.CLOSED}))
def test_a_stream_can_break_and_the_service_can_stop_at_any_time(phase: Phase):
    for move in (session_states.BREAK, session_states.STOP):
        assert phase in move.sources
        assert move.target is Phase.CLOSED


def test_only_the_database_opens_a_session():
    assert [move for move in STREAM_TABLE if move.target is Phase.OPEN] == [session_states.OPENED]


def test_silence_is_no_end():
    assert [move.target for move in DATABASE_TABLE if Standing.DISCONNECTED in move.sources] == [
        Standing.CONNECTED,
        Standing.OVER,
        Standing.OVER,
    ]


def test_the_picture_in_architecture_md_is_drawn_from_the_tables():
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
    _, _, rest = text.partition("<!-- session-states -->\n")
    picture, _, _ = rest.partition("<!-- /session-states -->")
    assert picture == f"```mermaid\n{session_states.mermaid()}```\n"
