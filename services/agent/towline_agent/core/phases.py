"""Where an attempt stands on its node: one table, and nothing moves an attempt but `after`."""

from enum import Enum
from typing import Final

from towline.errors import Internal
from towline.v1 import runs_pb2

__all__ = ["TRANSITIONS", "Phase", "Step", "after", "occupies", "run_state"]


class Phase(Enum):
    """Where an attempt stands."""

    LEASED = "leased"  # its grant is in the journal, nothing more
    PREPARING = "preparing"  # its image and its container are made
    RUNNING = "running"  # its container runs
    STOPPING = "stopping"  # its container was told to end or has ended; outputs are kept
    FINISHED = "finished"  # its result is in the journal and was not confirmed
    DROPPED = "dropped"  # it is no longer ours; its container is made to end, no result is sent
    GONE = "gone"  # nothing of it is left on the node


class Step(Enum):
    """What happens to an attempt."""

    PREPARE = "prepare"
    START = "start"
    STOP = "stop"
    FINISH = "finish"
    DROP = "drop"
    FORGET = "forget"


TRANSITIONS: Final[dict[tuple[Phase, Step], Phase]] = {
    (Phase.LEASED, Step.PREPARE): Phase.PREPARING,
    (Phase.LEASED, Step.START): Phase.RUNNING,  # a restarted agent finds the container running
    (Phase.PREPARING, Step.START): Phase.RUNNING,
    (Phase.RUNNING, Step.STOP): Phase.STOPPING,
    (Phase.STOPPING, Step.STOP): Phase.STOPPING,  # told to end, then ended
    # A result may come from anywhere: a refused image, a cancel, an exit.
    (Phase.LEASED, Step.FINISH): Phase.FINISHED,
    (Phase.PREPARING, Step.FINISH): Phase.FINISHED,
    (Phase.RUNNING, Step.FINISH): Phase.FINISHED,
    (Phase.STOPPING, Step.FINISH): Phase.FINISHED,
    (Phase.LEASED, Step.DROP): Phase.DROPPED,
    (Phase.PREPARING, Step.DROP): Phase.DROPPED,
    (Phase.RUNNING, Step.DROP): Phase.DROPPED,
    (Phase.STOPPING, Step.DROP): Phase.DROPPED,
    (Phase.FINISHED, Step.DROP): Phase.DROPPED,
    (Phase.DROPPED, Step.DROP): Phase.DROPPED,  # said again by the next Renewed
    (Phase.FINISHED, Step.FORGET): Phase.GONE,
    (Phase.DROPPED, Step.FORGET): Phase.GONE,
}

_STATES: Final = {
    Phase.LEASED: runs_pb2.RUN_STATE_LEASED,
    Phase.PREPARING: runs_pb2.RUN_STATE_PREPARING,
    Phase.RUNNING: runs_pb2.RUN_STATE_RUNNING,
    Phase.STOPPING: runs_pb2.RUN_STATE_STOPPING,
    Phase.FINISHED: runs_pb2.RUN_STATE_STOPPING,
    Phase.DROPPED: runs_pb2.RUN_STATE_STOPPING,
    Phase.GONE: runs_pb2.RUN_STATE_STOPPING,
}


def after(phase: Phase, step: Step) -> Phase:
    """Return the phase that follows; Internal if the table has none."""
    try:
        return TRANSITIONS[phase, step]
    except KeyError:
        raise Internal(f"an attempt that is {phase.value} cannot {step.value}", reason="INTERNAL") from None


def occupies(phase: Phase) -> bool:
    """Tell whether an attempt in this phase holds its slot and its GPUs."""
    return phase not in (Phase.FINISHED, Phase.GONE)


def run_state(phase: Phase) -> runs_pb2.RunState.ValueType:
    """Return the state that the queue service is told."""
    return _STATES[phase]
