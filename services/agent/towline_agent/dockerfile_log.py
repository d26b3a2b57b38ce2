"""What a build with a Dockerfile tells: to its log, to people, and of its end."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from towline_agent.core.dockerfile_failures import dockerfile_failure
from towline_agent.core.failures import LogTail
from towline_agent.core.redaction import Redactor, words_of
from towline_agent.engine.build_port import BuildEvent, Output, Refused, StepBegan, StepEnded
from towline_agent.installations import BuildLog
from towline_agent.telling import Tell

if TYPE_CHECKING:
    from towline.v1 import leases_pb2

__all__ = ["DockerfileLog"]

_LONGEST_STEP: Final = 120


class DockerfileLog:
    """Takes what one build tells.

    Args:
        path: Of the Dockerfile.
        log: Gets the build's output, without secrets.
        tell: Gets what is done, for people.
        secrets: What the log must not show.
    """

    def __init__(self, path: str, log: BuildLog, tell: Tell, secrets: Iterable[bytes]) -> None:
        self.result: leases_pb2.AttemptResult | None = None
        """Of the attempt, once the build has failed."""
        self.steps = 0
        """How many have come to a good end."""
        self.cached = 0
        """How many of these did not have to be carried out."""
        self._path = path
        self._log = log
        self._tell = tell
        self._redactor = Redactor({word for secret in secrets for word in words_of(secret)})
        self._tail = LogTail()
        self._in_line = False

    async def say(self, line: str) -> None:
        """Write a line of Towline's own into the log."""
        await self._line(f"towline: {line}")

    async def take(self, event: BuildEvent) -> None:
        """Take the next thing that the build tells."""
        match event:
            case StepBegan():
                self._tell.often(f"building {self._path}: {_short(event.step)}")
                await self._line(event.step)
            case Output():
                await self._write(self._redactor.feed(event.data))
            case StepEnded():
                self.steps += 1
                self.cached += event.cached
                number = event.step.partition("]")[0] + "]"
                took = "done" if event.seconds is None else f"done in {event.seconds:.1f} s"
                await self._line(f"{number} {'cached' if event.cached else took}")
            case Refused():
                why, step = self._clean(event.why), _short(self._clean(event.step))
                await self._line(why)
                # Only what a step says is the content's doing, and not this node's: see sharing.
                tail = self._tail.text() if step else ""
                self.result = dockerfile_failure(self._path, step, why, tail)

    async def _line(self, text: str) -> None:
        await self._write(self._redactor.end())
        start = "\n" if self._in_line else ""
        await self._write(f"{start}{self._clean(text)}\n".encode())

    async def _write(self, shown: bytes) -> None:
        if shown:
            self._in_line = not shown.endswith(b"\n")
            self._tail.feed(shown)
            await self._log.write(shown)

    def _clean(self, text: str) -> str:
        return self._redactor.clean(text.encode(errors="replace")).decode(errors="replace")


def _short(step: str) -> str:
    line = " ".join(step.split())
    return line if len(line) <= _LONGEST_STEP else line[: _LONGEST_STEP - 1] + "…"
