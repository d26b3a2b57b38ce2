"""Telling what is done to get an image: for people as it goes on, and where its seconds went afterwards."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from towline.v1 import runs_pb2
from towline_agent.core.image_steps import Step, attempt_image

__all__ = ["Tell"]

_OFTEN_S: Final = 0.5


class Tell:
    """Gets what is done for an image, for people, and keeps account of it.

    Args:
        say: Gets each line; what is told `often`, at most about twice a second.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.said = ""
        """What was told last."""
        self._says = [say]
        self._began = time.monotonic()
        self._steps: list[Step] = []
        self._held = ""
        self._said_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, line: str) -> None:
        """Tell what is done now; what is held back of `often` is out of date with it."""
        self._hold_nothing()
        self._speak(line)

    def often(self, line: str) -> None:
        """Tell how far a step is: of what comes more than twice a second, the newest."""
        self.said = line
        pause = self._said_at + _OFTEN_S - time.monotonic()
        if self._timer is not None:
            self._held = line
        elif pause > 0:
            self._held = line
            self._timer = asyncio.get_running_loop().call_later(pause, self.settle)
        else:
            self._speak(line)

    def settle(self) -> None:
        """Tell what was held back of `often`; who calls that outside of a step calls this at the end."""
        held = self._held
        self._hold_nothing()
        if held:
            self._speak(held)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Take the time of one thing that is done; what has no name at the end is not counted.

        Steps follow each other: one within another would be counted twice.
        """
        step = Step(name)
        began = time.monotonic()
        try:
            yield step
        finally:
            step.seconds = time.monotonic() - began
            if step.name:
                self._steps.append(step)
            self.settle()

    def did(self, step: Step) -> None:
        """Count a step whose time somebody else has taken."""
        self._steps.append(step)

    @contextmanager
    def heard_by(self, hear: Callable[[str], None]) -> Iterator[None]:
        """Let somebody else hear the lines, too, for the length of the block."""
        self._says.append(hear)
        try:
            yield
        finally:
            self._says.remove(hear)

    def image(self, size_bytes: int = 0) -> runs_pb2.AttemptImage | None:
        """Return what was done for the image, which has this size in bytes; None: nothing was."""
        if not self._steps:
            return None
        return attempt_image(self._steps, time.monotonic() - self._began, size_bytes)

    def _speak(self, line: str) -> None:
        self.said = line
        self._said_at = time.monotonic()
        for say in self._says:
            say(line)

    def _hold_nothing(self) -> None:
        self._held = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
