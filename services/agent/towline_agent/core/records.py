"""How the journal's small records are written: JSON, moments of CLOCK_BOOTTIME with the boot they belong to.

What belongs to another boot was before this one: its moment reads as minus infinity.
"""

import json
from datetime import timedelta
from typing import Any

from towline_agent.core.failures import EndedBy, ExitStatus
from towline_agent.core.stops import Exit, Signalled, StopReason

__all__ = ["dump_exit", "dump_started", "dump_stop", "parse_exit", "parse_started", "parse_stop"]


def dump_started(at: float, boot: str) -> bytes:
    """Write when a container was started."""
    return _dump(boot, at)


def parse_started(data: bytes, boot: str) -> float:
    """Read when a container was started; ValueError if it is not whole."""
    return _moment(_load(data), boot)


def dump_stop(signalled: Signalled, boot: str) -> bytes:
    """Write that a container is told to end."""
    grace_s = signalled.grace.total_seconds() if signalled.grace is not None else None
    return _dump(boot, signalled.at, reason=signalled.reason.word, grace_s=grace_s)


def parse_stop(data: bytes, boot: str) -> Signalled:
    """Read that a container was told to end; ValueError if it is not whole."""
    kept = _load(data)
    reason = StopReason.from_word(str(_field(kept, "reason")))
    grace = timedelta(seconds=_number(kept, "grace_s")) if _field(kept, "grace_s") is not None else None
    return Signalled(reason, _moment(kept, boot), grace)


def dump_exit(exit: Exit, boot: str) -> bytes:
    """Write how a container ended."""
    status = exit.status
    return _dump(
        boot,
        exit.at,
        code=status.code,
        oom_killed=status.oom_killed,
        error=status.error,
        log_read=exit.log_read,
        ended_by=exit.ended_by.value,
    )


def parse_exit(data: bytes, boot: str) -> Exit:
    """Read how a container ended; ValueError if it is not whole."""
    kept = _load(data)
    status = ExitStatus(
        int(_number(kept, "code")), bool(_field(kept, "oom_killed")), str(_field(kept, "error"))
    )
    ended_by = EndedBy(kept.get("ended_by", EndedBy.PROGRAM.value))
    return Exit(status, _moment(kept, boot), int(_number(kept, "log_read")), ended_by)


def _dump(boot: str, at: float, **fields: object) -> bytes:
    return json.dumps({"boot_id": boot, "at": at} | fields).encode()


def _load(data: bytes) -> dict[str, Any]:
    kept = json.loads(data)
    if not isinstance(kept, dict):
        raise ValueError("no object")
    return kept


def _moment(kept: dict[str, Any], boot: str) -> float:
    at = _number(kept, "at")
    return at if _field(kept, "boot_id") == boot else -float("inf")


def _number(kept: dict[str, Any], name: str) -> float:
    value = _field(kept, name)
    if not isinstance(value, (int, float)):
        raise ValueError(f"{name} is no number")
    return value


def _field(kept: dict[str, Any], name: str) -> Any:
    if name not in kept:
        raise ValueError(f"{name} is missing")
    return kept[name]
