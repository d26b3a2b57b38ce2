"""All chaos scenarios by name: the public functions of the files `chaos_*.py`, in the order written."""

import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Final

import chaos_agents
import chaos_docker
import chaos_network
import chaos_queue
import chaos_storage
from lane import Scenario

_THEMES: Final = (chaos_agents, chaos_queue, chaos_network, chaos_storage, chaos_docker)


def _of(theme: ModuleType) -> dict[str, Scenario]:
    return {
        name.replace("_", "-"): function
        for name, function in vars(theme).items()
        if inspect.isfunction(function) and function.__module__ == theme.__name__ and not name.startswith("_")
    }


SCENARIOS: Final = {name: scenario for theme in _THEMES for name, scenario in _of(theme).items()}


def chosen(words: Sequence[str], *, exact: bool = False) -> dict[str, Scenario]:
    """Return the scenarios whose names have, or with `exact` are, one of the words; no words: all."""
    return {
        name: scenario
        for name, scenario in SCENARIOS.items()
        if not words or any(word == name if exact else word in name for word in words)
    }
