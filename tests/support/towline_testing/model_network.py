"""Virtual connections between agents and queue replicas: ordered, slow, and broken in all ways of TCP."""

import random
from collections.abc import Callable
from typing import Protocol

from towline.v1 import leases_pb2
from towline_testing.model_timeline import Timeline

Up = leases_pb2.StreamLeasesRequest
Down = leases_pb2.StreamLeasesResponse


class Caller(Protocol):
    """The agent's end of a connection."""

    def hears(self, connection: "Connection", message: Down) -> None: ...
    def finds_broken(self, connection: "Connection") -> None: ...


class Callee(Protocol):
    """The replica's end of a connection."""

    def hears(self, connection: "Connection", message: Up) -> None: ...
    def finds_ended(self, connection: "Connection", *, in_order: bool) -> None: ...


class Connection:
    """One call. Each direction keeps its order, and delivers a prefix of what was sent.

    Args:
        timeline: Virtual time.
        chance: For delays.
        caller: Who hears what is sent down.
        callee: Who hears what is sent up.
        latency: What a message takes, in seconds, give or take a half.
    """

    def __init__(
        self, timeline: Timeline, chance: random.Random, caller: Caller, callee: Callee, latency: float
    ) -> None:
        self._timeline = timeline
        self._chance = chance
        self.caller = caller
        self.callee = callee
        self.up_cut = self.down_cut = False
        """Nothing more arrives; the sender does not notice."""
        self.left = False
        """The agent's end is closed: nothing reaches it any more. What it sent may still arrive, late."""
        self._up_at = self._down_at = 0.0
        self._latency = latency

    def send_up(self, message: Up) -> None:
        self._up_at = self._arrival(self._up_at)
        self._timeline.after(self._up_at - self._timeline.now, lambda: self._arrive_up(message))

    def send_down(self, message: Down) -> None:
        self._down_at = self._arrival(self._down_at)
        self._timeline.after(self._down_at - self._timeline.now, lambda: self._arrive_down(message))

    def hang_up(self, *, in_order: bool, noticed_after: float = 0.0) -> None:
        """End it from the agent's side; the replica learns after what was sent before, or never."""
        self.left = True

        def notice() -> None:
            if not self.up_cut or not in_order:
                self.up_cut = True
                self.callee.finds_ended(self, in_order=in_order)

        at = self._arrival(self._up_at) if in_order else self._timeline.now + noticed_after
        self._timeline.after(at - self._timeline.now, notice)

    def close(self) -> None:
        """End it from the replica's side, after what was sent before."""
        self._later_down(lambda: None if self.down_cut else self._break())

    def reset(self) -> None:
        """Tell the agent that the replica is gone, and lose what is on the way."""
        self.down_cut = True
        self._timeline.after(self._chance.random(), self._break)

    def _break(self) -> None:
        if not self.left:
            self.left = True
            self.caller.finds_broken(self)

    def _arrive_up(self, message: Up) -> None:
        if not self.up_cut:
            self.callee.hears(self, message)

    def _arrive_down(self, message: Down) -> None:
        if not self.down_cut and not self.left:
            self.caller.hears(self, message)

    def _later_down(self, do: Callable[[], None]) -> None:
        self._down_at = self._arrival(self._down_at)
        self._timeline.after(self._down_at - self._timeline.now, do)

    def _arrival(self, not_before: float) -> float:
        return max(not_before, self._timeline.now + self._latency * (0.5 + self._chance.random()))
