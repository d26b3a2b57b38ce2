"""The run state machine is closed, agrees with the proto, and is drawn as it is."""

from pathlib import Path

import pytest

from towline.v1 import runs_pb2
from towline_queue.core import transitions
from towline_queue.core.transitions import ACTIVE, TABLE, TERMINAL, WAITING, Actor, State


def test_states_are_those_of_the_proto():
    assert {f"RUN_STATE_{state.name}": int(state) for state in State} == {
        name: number for name, number in runs_pb2.RunState.items() if number
    }


def test_every_state_is_waiting_active_or_terminal():
    assert sorted([*WAITING, *ACTIVE, *TERMINAL]) == sorted(State)


def test_nothing_leaves_a_terminal_state():
    assert not [move for move in TABLE if move.sources & TERMINAL]


def test_every_move_out_of_an_agents_hands_compares_the_epoch():
    assert all("epoch" in move.guard for move in TABLE if move.sources & ACTIVE)


def test_progress_is_every_move_forward():
    """The statement that takes progress keeps the later of two states, and so no other."""
    moves = {(source, move.target) for move in transitions.PROGRESS for source in move.sources}
    assert moves == {(one, other) for one in ACTIVE for other in ACTIVE if one < other}


def test_only_a_claim_gives_a_lease():
    assert [move for move in TABLE if move.sources & WAITING and move.target in ACTIVE] == [transitions.CLAIM]


def test_progress_never_goes_back():
    for move in TABLE:
        if move.sources | {move.target} <= ACTIVE:
            assert all(source < move.target for source in move.sources), move


@pytest.mark.parametrize("state", sorted(WAITING | ACTIVE))
def test_every_state_that_is_not_an_end_can_be_cancelled(state: State):
    assert any(state in move.sources and move.target is State.CANCELLED for move in TABLE)


def test_the_api_moves_waiting_runs_only():
    assert all(move.sources <= WAITING for move in TABLE if move.actor is Actor.API)


def test_the_picture_in_architecture_md_is_drawn_from_the_table():
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
    _, _, rest = text.partition("<!-- run-states -->\n")
    picture, _, _ = rest.partition("<!-- /run-states -->")
    assert picture == f"```mermaid\n{transitions.mermaid()}```\n"
