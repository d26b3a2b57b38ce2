"""The environment variables that decide what `towline.init` and `towline.catch_stop` do."""

import os
from pathlib import Path
from typing import Final

__all__ = [
    "ARTIFACTS",
    "ATTEMPT",
    "CACHE_DIR",
    "CONFIG",
    "EPOCH",
    "INPUTS",
    "INPUTS_FILE",
    "OFFLINE_DIR",
    "OUTPUTS",
    "OUTPUTS_DIR",
    "RECORD",
    "RECORDING",
    "SPOOL",
    "STOP_FILE",
    "STOP_SIGNAL",
    "SUMMARY",
    "cache_folder",
    "number",
    "rank_above_zero",
    "switched_off",
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
SPOOL: Final = "TOWLINE_SPOOL"
"""The folder of the recording; set by `init`, so that processes below it find it."""
SUMMARY: Final = "TOWLINE_SUMMARY"
"""Path of the run's results; set by agents, and by `init` for the programs it starts."""
ARTIFACTS: Final = "TOWLINE_ARTIFACTS"
"""Folder of the artifacts that the run logs; set by agents, and by `init` for the programs it starts."""
INPUTS: Final = "TOWLINE_INPUTS"
"""Folder of the artifacts that the run reads, one folder for each input; set by agents."""
INPUTS_FILE: Final = "TOWLINE_INPUTS_FILE"
"""Path of a file that says which versions those are; set by agents."""
CACHE_DIR: Final = "TOWLINE_CACHE_DIR"
"""Folder that keeps downloaded artifacts, in place of ~/.cache/towline."""
OFFLINE_DIR: Final = "TOWLINE_OFFLINE_DIR"
"""Folder of the records that wait for `towline sync`, in place of `offline` in the data folder."""
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


def cache_folder() -> Path:
    """Give the folder for what may be lost: $TOWLINE_CACHE_DIR, else `towline` below the user's caches."""
    if named := os.environ.get(CACHE_DIR):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "towline"


def switched_off(record: bool | None) -> str:
    """Say who wants nothing to be recorded: the caller or the environment; empty: nobody."""
    if record is False:
        return "record=False"
    if os.environ.get(RECORD, "").strip().lower() in ("0", "off", "false", "no"):
        return f"{RECORD}={os.environ[RECORD]}"
    return ""


def why_not_recorded(record: bool | None) -> str:
    """Say why this process records nothing, as far as caller and environment decide it; empty: it does."""
    if off := switched_off(record):
        return off
    recorder = os.environ.get(RECORDING)
    if recorder and recorder != str(os.getpid()):
        return "the program that started this one is recorded"
    rank = rank_above_zero()
    return f"{rank}: rank 0 records" if rank else ""


def rank_above_zero() -> str:
    """Say by which variable this is a further worker of a distributed program; empty: it is none."""
    for variable in _RANKS:
        if os.environ.get(variable, "0").strip() not in ("", "0"):
            return f"{variable}={os.environ[variable]}"
    return ""
