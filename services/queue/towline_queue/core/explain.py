"""Why a run waits, in one sentence for people."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

__all__ = ["MOST_COUNTED", "AgentFacts", "QueueFacts", "explain_waiting"]

MOST_COUNTED: Final = 10_000
"""Runs ahead are counted up to this many, so that a long queue costs an answer no time."""


@dataclass(frozen=True)
class AgentFacts:
    """An agent that serves the queue, or several that are alike in all of this.

    Attributes:
        connected: Whether it is heard from.
        draining: Whether it takes no more runs.
        withheld: Why it takes none now although it may have room; empty: it does.
        slots: Runs it can hold at once.
        gpus: GPUs it has.
        busy_slots: Runs it holds.
        busy_gpus: GPUs in use.
        alike: How many agents they are.
    """

    connected: bool
    draining: bool
    slots: int
    gpus: int
    busy_slots: int
    busy_gpus: int
    withheld: str = ""
    alike: int = 1


@dataclass(frozen=True)
class QueueFacts:
    """What decides when a queue's runs start."""

    paused: bool
    agents: Sequence[AgentFacts]


def explain_waiting(
    facts: QueueFacts,
    *,
    gpus: int,
    ahead: int | None = None,
    due: datetime | None = None,
    expires: datetime | None = None,
) -> str:
    """Say why a run waits: the constraint that would still hold it if all later ones were gone.

    Args:
        facts: About its queue.
        gpus: GPUs that it needs.
        ahead: Runs ahead of it; None: not counted.
        due: When it may start, if that is not yet.
        expires: When it has waited for too long; None: never.
    """
    if due is not None:
        return f"scheduled until {_moment(due)}"
    waits = f"; waits until {_moment(expires)} at most" if expires else ""
    return f"{_constraint(facts, gpus)}{_place(ahead)}{waits}"


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _constraint(facts: QueueFacts, gpus: int) -> str:
    if facts.paused:
        return "the queue is paused"
    if not facts.agents:
        return "no agent serves this queue"
    largest = max(agent.gpus for agent in facts.agents)
    if gpus > largest:
        has = f"the largest agent has {largest}" if largest else "no agent of this queue has any"
        return f"needs {_count(gpus, 'GPU')}, but {has}"
    return _among_agents(facts.agents, gpus)


def _among_agents(agents: Sequence[AgentFacts], gpus: int) -> str:
    """Narrow the agents down, and name the step that leaves none."""
    connected = [agent for agent in agents if agent.connected]
    willing = [agent for agent in connected if not agent.draining]
    fitting = [agent for agent in willing if agent.slots > 0 and agent.gpus >= gpus]
    taking = [agent for agent in fitting if not agent.withheld]
    free = [
        agent for agent in taking if agent.busy_slots < agent.slots and agent.gpus - agent.busy_gpus >= gpus
    ]
    if not connected:
        why = _none(agents, "agent of this queue", "is connected", "is not connected")
    elif not willing:
        why = "every connected agent of this queue is draining"
    elif not fitting:
        why = (
            f"no connected agent has room for {_count(gpus, 'GPU')}"
            if gpus
            else "no connected agent has a slot"
        )
    elif not taking:
        why = _none(fitting, "agent that could take it", "takes runs now", "takes no runs now") + _why(
            fitting
        )
    elif not free:
        why = _none(fitting, "agent that could take it", "has room now", "is busy") + _why(fitting)
    else:
        why = "about to start"
    return why


def _why(agents: Sequence[AgentFacts]) -> str:
    """Give the reason why agents take no runs now that most of them have; empty: all of them take runs."""
    reasons = Counter[str]()
    for agent in agents:
        reasons[agent.withheld] += agent.alike
    taking = reasons.pop("", 0)
    if not reasons:
        return ""
    (reason, number), *others = reasons.most_common()
    return f"; {number} of them because {reason}" if taking or others else f": {reason}"


def _none(agents: Sequence[AgentFacts], noun: str, does: str, does_not: str) -> str:
    number = sum(agent.alike for agent in agents)
    return (
        f"the only {noun} {does_not}"
        if number == 1
        else f"none of {number} {noun.replace('agent', 'agents')} {does}"
    )


def _place(ahead: int | None) -> str:
    if not ahead:
        return ""
    more = "at least " if ahead >= MOST_COUNTED else ""
    return f"; {more}{_count(ahead, 'run')} ahead"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
