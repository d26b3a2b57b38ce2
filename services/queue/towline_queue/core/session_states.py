"""The state machine of a session: where it stands in the process that has its stream, and in the database.

The picture in ARCHITECTURE.md is `mermaid()`; a test compares the two. `SessionProtocol` makes the moves of
`STREAM_TABLE`. Those of `DATABASE_TABLE` are made by statements, and DISCONNECTED is not even stored: it is
what the database answers once a session has been silent for `disconnected_after`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

__all__ = [
    "BREAK",
    "DATABASE_TABLE",
    "FAIL",
    "GOODBYE",
    "LEFT",
    "OPENED",
    "OVERFLOW",
    "REFUSE",
    "RENEW_TERMS",
    "STOP",
    "STREAM_TABLE",
    "SUPERSEDE",
    "Phase",
    "SessionMove",
    "Standing",
    "mermaid",
]


class Phase(StrEnum):
    """Where a session stands in the process that has its stream."""

    OPENING = "OPENING"
    """The stream is there, the database has not admitted the session yet."""
    OPEN = "OPEN"
    """Renews, reports, and gets leases."""
    LEAVING = "LEAVING"
    """The agent said good-bye; all that it said is carried out."""
    CLOSED = "CLOSED"
    """The stream ends. Leases stay as they are."""


class Standing(StrEnum):
    """Where a session stands in the database."""

    CONNECTED = "CONNECTED"
    DISCONNECTED = "DISCONNECTED"
    """Silent: gets no leases and keeps those it has, its agent and its runs are shown as unreachable."""
    OVER = "OVER"
    """Whatever it still says changes nothing."""


_Where = TypeVar("_Where", Phase, Standing)


@dataclass(frozen=True)
class SessionMove(Generic[_Where]):
    """One permitted move.

    Attributes:
        name: What happens, in words for people.
        sources: Where it leaves from.
        target: Where it goes.
        by: Who makes it happen.
        guard: What must hold.
    """

    name: str
    sources: frozenset[_Where]
    target: _Where
    by: str
    guard: str = ""


def _move(name: str, sources: set[_Where], target: _Where, by: str, guard: str = "") -> SessionMove[_Where]:
    return SessionMove(name, frozenset(sources), target, by, guard)


_ALIVE: Final = {Phase.OPENING, Phase.OPEN, Phase.LEAVING}

OPENED: Final = _move("Welcome", {Phase.OPENING}, Phase.OPEN, "queue", "session committed")
REFUSE: Final = _move(
    "refused", {Phase.OPENING}, Phase.CLOSED, "queue", "Hello ill-formed, name in use, no queue"
)
GOODBYE: Final = _move("good-bye", {Phase.OPEN}, Phase.LEAVING, "agent", "all it said is carried out")
LEFT: Final = _move("left", {Phase.LEAVING}, Phase.CLOSED, "queue", "committed")
BREAK: Final = _move("stream breaks", _ALIVE, Phase.CLOSED, "network")
SUPERSEDE: Final = _move("GoAway", {Phase.OPEN, Phase.LEAVING}, Phase.CLOSED, "queue", "newer session")
FAIL: Final = _move(
    "error", {Phase.OPEN, Phase.LEAVING}, Phase.CLOSED, "queue", "message ill-formed, call failed"
)
OVERFLOW: Final = _move("error", {Phase.OPEN, Phase.LEAVING}, Phase.CLOSED, "queue", "agent does not read")
STOP: Final = _move("GoAway", _ALIVE, Phase.CLOSED, "queue", "service stops")
RENEW_TERMS: Final = _move(
    "GoAway", {Phase.OPEN, Phase.LEAVING}, Phase.CLOSED, "queue", "a lease needs more frequent heartbeats"
)

STREAM_TABLE: Final = (OPENED, REFUSE, GOODBYE, LEFT, BREAK, SUPERSEDE, FAIL, OVERFLOW, STOP, RENEW_TERMS)

DATABASE_TABLE: Final = (
    _move("silence", {Standing.CONNECTED}, Standing.DISCONNECTED, "time", "disconnected_after"),
    _move("renewal", {Standing.DISCONNECTED}, Standing.CONNECTED, "agent", "session has the agent's name"),
    _move("newer session", {Standing.CONNECTED, Standing.DISCONNECTED}, Standing.OVER, "queue"),
    _move("good-bye", {Standing.CONNECTED, Standing.DISCONNECTED}, Standing.OVER, "agent", "holds no lease"),
)


def mermaid() -> str:
    """Draw both tables as one Mermaid state diagram, one arrow for each move and source."""
    return "\n".join(
        [
            "stateDiagram-v2",
            '    state "in the process that has its stream" as STREAM {',
            f"        [*] --> {Phase.OPENING}: agent, Hello",
            *(f"        {arrow}" for move in STREAM_TABLE for arrow in _arrows(move)),
            f"        {Phase.CLOSED} --> [*]",
            "    }",
            '    state "in the database" as DATABASE {',
            f"        [*] --> {Standing.CONNECTED}: queue, session committed",
            *(f"        {arrow}" for move in DATABASE_TABLE for arrow in _arrows(move)),
            f"        {Standing.OVER} --> [*]",
            "    }",
            "",
        ]
    )


def _arrows(move: SessionMove[_Where]) -> list[str]:
    guard = f" [{move.guard}]" if move.guard else ""
    sources = [where for where in type(move.target) if where in move.sources]
    return [f"{source} --> {move.target}: {move.by}, {move.name}{guard}" for source in sources]
