"""The environment variables that decide what `towline.init` and `towline.catch_stop` do."""

import os
from typing import Final

__all__ = [
    "ATTEMPT",
    "CONFIG",
    "EPOCH",
    "OUTPUTS",
    "OUTPUTS_DIR",
    "RECORD",
    "RECORDING",
    "STOP_FILE",
    "STOP_SIGNAL",
    "number",
    "why_not_recorded",
]

CONFIG: Final = "TOWLINE_CONFIG"
"""Path of the run's parameters; set by agents: the program runs in a container."""
OUTPUTS: Final = "TOWLINE_OUTPUTS"
"""The outputs folder itself; set by agents, and by `init` for the programs it starts."""
OUTPUTS_DIR: Final = "TOWLINE_OUTPUTS_DIR"
"""Folder that gets one outputs folder per recorded run, in place of ./towline-outputs."""
RECORD: Final = "TOWLINE_RECORD"
"""0, off, false or no: `init` records nothing."""
RECORDING: Final = "TOWLINE_RECORDING"
"""The process that records; set by `init`, so that no process below it records again."""
ATTEMPT: Final = "TOWLINE_ATTEMPT"
"""Number of the attempt, 1 for the first; set by agents."""
EPOCH: Final = "TOWLINE_EPOCH"
"""The attempt's fencing token; set by agents."""
STOP_FILE: Final = "TOWLINE_STOP_FILE"
"""Path of what an agent writes before it signals; set by agents."""
STOP_SIGNAL: Final = "TOWLINE_STOP_SIGNAL"
"""Name of the signal that asks the program to stop; set by agents."""

_RANKS: Final = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def number(variable: str, default: int) -> int:
    """Read a number that agents set; `default` where none is."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default


def why_not_recorded(record: bool | None) -> str | None:
    """Say why this process records nothing, as far as its caller and its environment decide it."""
    if record is False:
        return "record=False"
    if os.environ.get(RECORD, "").strip().lower() in ("0", "off", "false", "no"):
        return f"{RECORD}={os.environ[RECORD]}"
    recorder = os.environ.get(RECORDING)
    if recorder and recorder != str(os.getpid()):
        return "the program that started this one is recorded"
    for variable in _RANKS:
        if os.environ.get(variable, "0").strip() not in ("", "0"):
            return f"{variable}={os.environ[variable]}: rank 0 records"
    return None
