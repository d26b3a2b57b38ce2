"""Why a run waits; ids of runs."""

import secrets
from datetime import UTC, datetime

import pytest

from towline import names
from towline_queue.core.explain import MOST_COUNTED, AgentFacts, QueueFacts, explain_waiting
from towline_queue.core.run_ids import run_names
from towline_queue.making import new_names

IDLE = AgentFacts(connected=True, draining=False, slots=2, gpus=2, busy_slots=0, busy_gpus=0)

FULL = "its disk is full"


def agent(**facts: object) -> AgentFacts:
    return AgentFacts(**(vars(IDLE) | facts))


@pytest.mark.parametrize(
    ("agents", "gpus", "why"),
    [
        ([], 0, "no agent serves this queue"),
        ([IDLE], 4, "needs 4 GPUs, but the largest agent has 2"),
        ([agent(gpus=0)], 1, "needs 1 GPU, but no agent of this queue has any"),
        ([agent(connected=False)], 0, "the only agent of this queue is not connected"),
        ([agent(connected=False)] * 3, 0, "none of 3 agents of this queue is connected"),
        (
            [agent(draining=True), agent(connected=False)],
            0,
            "every connected agent of this queue is draining",
        ),
        ([agent(connected=False), agent(gpus=0)], 1, "no connected agent has room for 1 GPU"),
        ([agent(slots=0)], 0, "no connected agent has a slot"),
        ([agent(busy_slots=2), agent(busy_slots=2)], 0, "none of 2 agents that could take it has room now"),
        ([agent(busy_gpus=1), agent(gpus=0)], 2, "the only agent that could take it is busy"),
        ([agent(busy_slots=2), IDLE], 2, "about to start"),
        (
            [agent(withheld=FULL), agent(connected=False)],
            0,
            f"the only agent that could take it takes no runs now: {FULL}",
        ),
        ([agent(withheld=FULL, alike=3)], 0, f"none of 3 agents that could take it takes runs now: {FULL}"),
        (
            [agent(withheld="it rests"), agent(withheld=FULL, alike=2)],
            0,
            f"none of 3 agents that could take it takes runs now; 2 of them because {FULL}",
        ),
        (
            [agent(withheld=FULL), agent(busy_slots=2)],
            0,
            f"none of 2 agents that could take it has room now; 1 of them because {FULL}",
        ),
        ([agent(withheld=FULL), IDLE], 0, "about to start"),
    ],
)
def test_the_binding_constraint_is_named(agents: list[AgentFacts], gpus: int, why: str) -> None:
    assert explain_waiting(QueueFacts(paused=False, agents=agents), gpus=gpus) == why


def test_a_pause_and_a_time_come_before_everything_else() -> None:
    paused = QueueFacts(paused=True, agents=[])
    assert explain_waiting(paused, gpus=9) == "the queue is paused"
    due = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert explain_waiting(paused, gpus=9, due=due) == "scheduled until 2026-01-02 03:04:05 UTC"


def test_the_end_of_the_wait_is_told() -> None:
    expires = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    why = explain_waiting(QueueFacts(True, []), gpus=0, ahead=1, expires=expires)
    assert why == "the queue is paused; 1 run ahead; waits until 2026-01-02 03:04:05 UTC at most"


@pytest.mark.parametrize(
    ("ahead", "place"),
    [
        (None, ""),
        (0, ""),
        (1, "; 1 run ahead"),
        (7, "; 7 runs ahead"),
        (MOST_COUNTED, "; at least 10000 runs ahead"),
    ],
)
def test_the_place_is_told(ahead: int | None, place: str) -> None:
    assert explain_waiting(QueueFacts(True, []), gpus=0, ahead=ahead) == f"the queue is paused{place}"


def test_run_names_sort_by_time_and_within_it_as_given() -> None:
    early, late = run_names(1_700_000_000_000, [5, 2**40 - 1, 0]), run_names(1_700_000_000_001, [0])
    made = [*early, *late]
    assert made == sorted(made)
    assert len(set(made)) == 4
    assert all(names.run(name) and len(name) == len("runs/") + 18 for name in made)


def test_no_name_of_a_lone_run_lies_between_those_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in (0, 2**39 - 1, 0x12345678):
        monkeypatch.setattr(secrets, "randbits", lambda most, bits=bits: bits & (1 << most) - 1)
        (lone,), _ = new_names(1)
        many, _ = new_names(1000)
        assert many == sorted(set(many))
        assert len({name[:-2] for name in many}) == 1
        assert lone[:-2][-6:] != many[0][:-2][-6:]
