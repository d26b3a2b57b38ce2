"""Where an attempt stands on its node: one table, and nothing moves an attempt but `after`."""

from enum import Enum
from typing import Final

from towline.errors import Internal
from towline.v1 import runs_pb2

__all__ = ["TRANSITIONS", "Phase", "Step", "after", "mermaid", "occupies", "run_state", "works"]


class Phase(Enum):
    """Where an attempt stands."""

    OFFERED = "offered"  # its grant came and is being written to the journal
    LEASED = "leased"  # its grant is in the journal, nothing more
    PREPARING = "preparing"  # its image and its container are made
    RUNNING = "running"  # its container runs
    STOPPING = "stopping"  # its container was told to end or has ended; outputs are kept
    FINISHED = "finished"  # it has a result that nobody has confirmed
    RELEASED = "released"  # it was given back before it began, and nobody has acknowledged that
    CONFIRMED = "confirmed"  # nothing is owed any more; what is left of it is removed
    DROPPED = "dropped"  # it is no longer ours; its container is made to end, no result is sent
    GONE = "gone"  # nothing of it is left on the node


class Step(Enum):
    """What happens to an attempt."""

    KEEP = "keep"
    REFUSE = "refuse"
    PREPARE = "prepare"
    START = "start"
    STOP = "stop"
    FINISH = "finish"
    RELEASE = "release"
    CONFIRM = "confirm"
    DROP = "drop"
    FORGET = "forget"


_AT_WORK: Final = (Phase.LEASED, Phase.PREPARING, Phase.RUNNING, Phase.STOPPING)

TRANSITIONS: Final[dict[tuple[Phase, Step], Phase]] = {
    (Phase.OFFERED, Step.KEEP): Phase.LEASED,
    (Phase.OFFERED, Step.REFUSE): Phase.GONE,
    (Phase.LEASED, Step.PREPARE): Phase.PREPARING,
    (Phase.LEASED, Step.START): Phase.RUNNING,  # a restarted agent finds the container running
    (Phase.PREPARING, Step.START): Phase.RUNNING,
    (Phase.RUNNING, Step.STOP): Phase.STOPPING,
    (Phase.STOPPING, Step.STOP): Phase.STOPPING,  # told to end, then ended
    # A result may come from anywhere: a refused image, a cancel, an exit.
    **dict.fromkeys(((phase, Step.FINISH) for phase in _AT_WORK), Phase.FINISHED),
    (Phase.FINISHED, Step.CONFIRM): Phase.CONFIRMED,
    (Phase.LEASED, Step.RELEASE): Phase.RELEASED,
    (Phase.PREPARING, Step.RELEASE): Phase.RELEASED,
    (Phase.RELEASED, Step.CONFIRM): Phase.CONFIRMED,
    (Phase.OFFERED, Step.DROP): Phase.DROPPED,
    **dict.fromkeys(((phase, Step.DROP) for phase in _AT_WORK), Phase.DROPPED),
    (Phase.CONFIRMED, Step.FORGET): Phase.GONE,
    (Phase.DROPPED, Step.FORGET): Phase.GONE,
}

_STATES: Final = {
    Phase.OFFERED: runs_pb2.RUN_STATE_LEASED,
    Phase.LEASED: runs_pb2.RUN_STATE_LEASED,
    Phase.PREPARING: runs_pb2.RUN_STATE_PREPARING,
    Phase.RUNNING: runs_pb2.RUN_STATE_RUNNING,
    Phase.STOPPING: runs_pb2.RUN_STATE_STOPPING,
    Phase.FINISHED: runs_pb2.RUN_STATE_STOPPING,
    Phase.RELEASED: runs_pb2.RUN_STATE_PREPARING,
    Phase.CONFIRMED: runs_pb2.RUN_STATE_STOPPING,
    Phase.DROPPED: runs_pb2.RUN_STATE_STOPPING,
    Phase.GONE: runs_pb2.RUN_STATE_STOPPING,
}


def after(phase: Phase, step: Step) -> Phase:
    """Return the phase that follows; Internal if the table has none."""
    try:
        return TRANSITIONS[phase, step]
    except KeyError:
        raise Internal(f"an attempt that is {phase.value} cannot {step.value}", reason="INTERNAL") from None


def works(phase: Phase) -> bool:
    """Tell whether an attempt in this phase is ours and on its way to a result."""
    return phase in _AT_WORK


def occupies(phase: Phase) -> bool:
    """Tell whether an attempt in this phase holds its slot and its GPUs."""
    return phase not in (Phase.FINISHED, Phase.RELEASED, Phase.CONFIRMED, Phase.GONE)


def run_state(phase: Phase) -> runs_pb2.RunState.ValueType:
    """Return the state that the queue service is told."""
    return _STATES[phase]


def mermaid() -> str:
    """Draw the table; what may happen to an attempt anywhere on its way to a result is drawn once."""
    lines = ["stateDiagram-v2", "    [*] --> OFFERED", "    state AT_WORK {"]
    inner = [edge for edge in TRANSITIONS.items() if edge[0][0] in _AT_WORK and edge[1] in _AT_WORK]
    lines += [f"        {was.name} --> {then.name}: {step.value}" for (was, step), then in inner]
    lines.append("    }")
    for (was, step), then in TRANSITIONS.items():
        if was in _AT_WORK and all((phase, step) in TRANSITIONS for phase in _AT_WORK):
            if was is _AT_WORK[0]:
                lines.append(f"    AT_WORK --> {then.name}: {step.value}")
        elif then not in _AT_WORK or was not in _AT_WORK:
            lines.append(f"    {was.name} --> {then.name}: {step.value}")
    return "\n".join([*lines, "    GONE --> [*]", ""])
