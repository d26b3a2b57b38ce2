"""The protocol's cores keep their promises whatever goes wrong; the model notices a broken guard."""

import pytest

from towline_testing.model_machine import explore
from towline_testing.model_mutants import MUTANTS
from towline_testing.model_world import Broken, Model

# Found within a second or two; `run.py --mutants` breaks all guards.
QUICK = ("epoch not raised", "watchdog off", "retry forgotten")


def test_nothing_breaks_a_promise() -> None:
    steps, _ = explore(20_261_123, 3)
    assert steps > 5_000


@pytest.mark.parametrize("name", QUICK)
def test_a_broken_guard_is_found(name: str) -> None:
    with MUTANTS[name](), pytest.raises((Broken, AssertionError, KeyError)):
        for number in range(10):
            explore(number, 10, shrink=False)


def test_a_hello_that_was_held_up_does_not_end_what_was_granted_since() -> None:
    """A frozen replica hears old words once it goes on; the agent has long been with another."""
    for seed in range(15):
        model = Model(seed, agents=2)
        model.let(20)
        model.freeze_replica(0, 100)
        for number in range(4):
            model.submit(queue=1, gpus=0, priority=0, limits=0)
            model.let(30 + number)
        model.heal_and_check()
