"""Until when each container may run, and what is owed once that is over; standard library only.

All moments are seconds of CLOCK_BOOTTIME: it goes on while the machine sleeps and no one sets it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NoReturn

from towline_agent.core.ownership import attempt_key

__all__ = [
    "Action",
    "Deadline",
    "Expired",
    "Progress",
    "due",
    "dump",
    "dump_expired",
    "next_due",
    "parse",
    "parse_expired",
]

# The agent stops its containers itself; what is late by this much it does not do any more.
_MARGIN_S: Final = 1.0
# A container that was not there may have been made since, by an agent that was frozen meanwhile.
_LOOK_AGAIN_S: Final = 2.0
_SIGNAL: Final = re.compile(r"SIG[A-Z0-9+-]{1,12}")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")


@dataclass(frozen=True)
class Deadline:
    """Until when one attempt's container may run."""

    lease: str
    """Lease id."""
    epoch: int
    """Its epoch."""
    run: str
    """"runs/{run}"."""
    container: str
    """Name of the container; it need not be there yet."""
    signal: str
    """What asks its program to stop, such as "SIGTERM"."""
    stop_at: float
    """When that signal is sent. Equal to `kill_at`: it was sent already."""
    kill_at: float
    """When it is killed."""
    reason: str
    """Why, such as "LEASE_EXPIRED" or "TIMEOUT"."""
    container_id: str = ""
    """The container's id once it has been started; empty: not known yet."""
    begun: bool = False
    """Whether the engine may have been asked to start the container; written before it is."""

    @property
    def key(self) -> str:
        """Name its attempt, as the journal's folder is named."""
        return attempt_key(self.run, self.epoch)


@dataclass(frozen=True)
class Progress:
    """What a watchdog has done about one deadline."""

    signalled: bool = False
    """Whether the stop signal was sent."""
    absent_at: float | None = None
    """When its container was found not to run."""


@dataclass(frozen=True)
class Action:
    """A signal that is owed to a container."""

    deadline: Deadline
    signal: str


@dataclass(frozen=True)
class Expired:
    """That a watchdog ended an attempt's container, as its journal folder says."""

    reason: str
    """Deadline.reason."""
    at: float
    """When, just before the first signal."""


def due(deadlines: Iterable[Deadline], progress: Mapping[str, Progress], now: float) -> list[Action]:
    """Return what is owed at a moment, in the order of the deadlines.

    Args:
        deadlines: All that are in force.
        progress: What was done, by Deadline.key.
        now: The moment.
    """
    actions = []
    for deadline in deadlines:
        done = progress.get(deadline.key, Progress())
        if done.absent_at is not None and now < done.absent_at + _LOOK_AGAIN_S:
            continue
        if now >= deadline.kill_at:
            actions.append(Action(deadline, "SIGKILL"))
        elif not done.signalled and now >= _stop_moment(deadline):
            actions.append(Action(deadline, deadline.signal))
    return actions


def next_due(deadlines: Iterable[Deadline], now: float) -> float:
    """Return the next moment after `now` at which something falls due; infinity: none does."""
    moments = (moment for one in deadlines for moment in (_stop_moment(one), one.kill_at) if moment > now)
    return min(moments, default=float("inf"))


def dump(boot_id: str, deadlines: Iterable[Deadline]) -> bytes:
    """Write deadlines of one boot as JSON; ValueError if a moment is no number that JSON has."""
    leases = [asdict(one) for one in deadlines]
    return json.dumps({"boot_id": boot_id, "leases": leases}, allow_nan=False).encode()


def parse(data: bytes, boot_id: str) -> tuple[Deadline, ...]:
    """Read deadlines; those of another boot are over, with the containers they were for.

    Raises:
        ValueError: It is not whole, or not what `dump` writes; what else an entry has is passed over.
    """
    read = _object(data)
    leases = read.get("leases")
    if not isinstance(read.get("boot_id"), str) or not isinstance(leases, list):
        raise ValueError("boot_id or leases are missing")
    found = tuple(_deadline(one) for one in leases)
    return found if read["boot_id"] == boot_id else ()


def dump_expired(expired: Expired) -> bytes:
    """Write the note as JSON."""
    return json.dumps(asdict(expired)).encode()


def parse_expired(data: bytes) -> Expired:
    """Read the note.

    Raises:
        ValueError: It is not whole.
    """
    read = _object(data)
    return Expired(_text(read, "reason"), _moment(read, "at"))


def _stop_moment(deadline: Deadline) -> float:
    return deadline.stop_at + min(_MARGIN_S, max(0.0, deadline.kill_at - deadline.stop_at) / 4)


def _deadline(entry: object) -> Deadline:
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r} is no lease")
    epoch = entry.get("epoch")
    if type(epoch) is not int:
        raise ValueError("an epoch is no number")
    deadline = Deadline(
        lease=_text(entry, "lease"),
        epoch=epoch,
        run=_text(entry, "run"),
        container=_text(entry, "container"),
        signal=_text(entry, "signal"),
        stop_at=_moment(entry, "stop_at"),
        kill_at=_moment(entry, "kill_at"),
        reason=_text(entry, "reason"),
        container_id=_text({"container_id": ""} | entry, "container_id"),
        # Who does not say it, such as another version, may have asked.
        begun=entry.get("begun") is not False,
    )
    # They become parts of paths.
    for word in (deadline.container, deadline.key, deadline.container_id or deadline.container):
        if not _WORD.fullmatch(word):
            raise ValueError(f"{word!r} is no name")
    if not _SIGNAL.fullmatch(deadline.signal):
        raise ValueError(f"{deadline.signal!r} is no signal")
    return deadline


def _object(data: bytes) -> dict[str, Any]:
    read = json.loads(data, parse_constant=_no_number)
    if not isinstance(read, dict):
        raise ValueError("no object")
    return read


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no moment")


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _moment(entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{name} is no moment")
    return float(value)
