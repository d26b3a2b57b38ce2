"""The supervisor of `towline up --detach`: started by `towline.embedded.detached`."""

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from towline.embedded.layout import Layout
from towline.embedded.program import Event
from towline.embedded.summary import Summary
from towline.embedded.supervisor import supervise
from towline.errors import TowlineError

__all__: list[str] = []


class _Parent:
    """The one that started us and waits for the word that all is up; told in JSON lines on a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._pipe: int | None = descriptor

    def tell(self, **message: object) -> None:
        """Say something while it listens."""
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, json.dumps(message, default=str).encode() + b"\n")
        except BrokenPipeError:  # it was interrupted
            self.leave()

    def leave(self) -> None:
        """Let it go on."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def main(data_dir: str, descriptor: str) -> int:
    """Supervise a data folder; the exit status is 0, or 1 after the error was told."""
    parent = _Parent(int(descriptor))

    def report(event: Event) -> None:
        parent.tell(event=asdict(event))
        sys.stdout.write(f"{event.process}: {event.what} {event.detail}".rstrip() + "\n")
        sys.stdout.flush()

    def ready(summary: Summary) -> None:
        parent.tell(summary=asdict(summary))
        parent.leave()

    try:
        asyncio.run(supervise(Layout(Path(data_dir)), report, ready))
    except TowlineError as error:
        parent.tell(
            error={
                "kind": type(error).__name__,
                "message": error.message,
                "reason": error.reason,
                "metadata": error.metadata,
            }
        )
        sys.stdout.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
