"""A run as it goes: states on standard error, the program's log byte by byte on standard output."""

import asyncio
import base64
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Final, Protocol

from rich.console import Console
from rich.text import Text

from towline.cli import output, pages, words
from towline.client import ENDED_STATES, AsyncClient
from towline.errors import Internal
from towline.names import short
from towline.v1 import logs_pb2, runs_pb2

__all__ = ["Display", "display", "follow", "wait"]

_HOW_FAR_EVERY_S: Final = 10.0


class Display(Protocol):
    """Shows a run to whoever watches."""

    @property
    def build_log(self) -> Callable[[logs_pb2.TailLogsResponse], None] | None:
        """What shows what the build printed; None where nobody wants it."""

    def changed(self, run: runs_pb2.Run) -> None:
        """Show where the run stands."""

    def log(self, piece: logs_pb2.TailLogsResponse) -> None:
        """Show what the program printed."""

    def ended(self, run: runs_pb2.Run) -> None:
        """Show how the run ended; nothing follows."""

    def close(self) -> None:
        """Leave the screen as it should stay."""


class _Plain:
    """One line per change of state on standard error, and for each thing that is done to get an image."""

    build_log = None

    def __init__(self) -> None:
        self._shown = ("", "")
        self._shown_at = 0.0

    def changed(self, run: runs_pb2.Run) -> None:
        preparing = run.state == runs_pb2.RUN_STATE_PREPARING
        # What follows a colon says how far it is, and changes twice a second.
        shown = (words.state(run), run.state_detail.partition(": ")[0] if preparing else "")
        now = time.monotonic()
        if shown != self._shown or (preparing and now - self._shown_at >= _HOW_FAR_EVERY_S):
            self._shown, self._shown_at = shown, now
            sys.stderr.write(pages.state_line(run) + "\n")
            sys.stderr.flush()

    def log(self, piece: logs_pb2.TailLogsResponse) -> None:
        output.write(piece.data)

    def ended(self, run: runs_pb2.Run) -> None:
        self.changed(run)
        for line in pages.ending(run, logs_shown=True):
            sys.stderr.write(line + "\n")

    def close(self) -> None:
        sys.stderr.flush()


class _Terminal:
    """A spinner while the run waits or its image is built; out of the way once the program prints."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("", spinner="dots")
        self._shown = ""
        self._building = b""

    def changed(self, run: runs_pb2.Run) -> None:
        state = words.state(run)
        if state != self._shown:
            self._shown = state
            self._console.print(Text(pages.state_line(run), style=words.state_style(run)))
        if run.state in (*ENDED_STATES, runs_pb2.RUN_STATE_RUNNING, runs_pb2.RUN_STATE_STOPPING):
            self._status.stop()  # from here on the terminal is the program's
        else:
            self._status.update(Text(pages.waiting_line(run), style="dim"))
            self._status.start()

    def log(self, piece: logs_pb2.TailLogsResponse) -> None:
        self._status.stop()
        output.write(piece.data)

    def build_log(self, piece: logs_pb2.TailLogsResponse) -> None:
        *lines, self._building = (self._building + piece.data).split(b"\n")
        for line in lines:
            self._console.print(Text.from_ansi(line.decode(errors="replace"), style="dim"))

    def ended(self, run: runs_pb2.Run) -> None:
        self.changed(run)
        for line in pages.ending(run, logs_shown=True):
            self._console.print(Text(line))

    def close(self) -> None:
        self._status.stop()


class _JsonLines:
    """One JSON document a line on standard output: {"run": …} at each change, {"log": …} for its log."""

    build_log = None

    def changed(self, run: runs_pb2.Run) -> None:
        output.document({"run": output.as_dict(run)})

    def log(self, piece: logs_pb2.TailLogsResponse) -> None:
        data = base64.b64encode(piece.data).decode()
        output.document({"log": {"epoch": str(piece.epoch), "offset": str(piece.offset), "data": data}})

    def ended(self, run: runs_pb2.Run) -> None:
        self.changed(run)

    def close(self) -> None:
        pass


def display(*, as_json: bool) -> Display:
    """Give the display for what standard error is."""
    if as_json:
        return _JsonLines()
    return _Terminal(output.errors_console()) if sys.stderr.isatty() else _Plain()


async def follow(client: AsyncClient, name: str, screen: Display) -> runs_pb2.Run:
    """Show a run's states and log until it has ended, and return it as it is then.

    Raises:
        TowlineError: What the services answered.
        ReaderGone: Standard output was closed.
    """
    last: runs_pb2.Run | None = None
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(client.logs.tail(name, follow=True), screen.log))
            build_logs = _BuildLogs(client, screen, group)
            async with aclosing(client.runs.watch(name)) as changes:
                async for last in changes:
                    if last.state not in ENDED_STATES:  # the end is shown when the log is out
                        screen.changed(last)
                        build_logs.follow(last)
            build_logs.stop()
        if last is None:
            raise Internal(f"the watch of {name} ended before it began", reason="WATCH_ENDED")
        screen.ended(last)
        return last
    finally:
        screen.close()


async def wait(client: AsyncClient, name: str, screen: Display) -> runs_pb2.Run:
    """Show a run's states until it has ended, and return it as it is then.

    Raises:
        TowlineError: What the services answered.
    """
    try:
        async with aclosing(client.runs.watch(name)) as changes:
            async for run in changes:
                if run.state in ENDED_STATES:
                    screen.ended(run)
                    return run
                screen.changed(run)
    finally:
        screen.close()
    raise Internal(f"the watch of {name} ended before the run did", reason="WATCH_ENDED")


async def _copy(
    pieces: AsyncIterator[logs_pb2.TailLogsResponse], show: Callable[[logs_pb2.TailLogsResponse], None]
) -> None:
    async for piece in pieces:
        show(piece)


class _BuildLogs:
    """Copies the build log of the attempt that is being prepared, for as long as it is."""

    def __init__(self, client: AsyncClient, screen: Display, group: asyncio.TaskGroup) -> None:
        self._client = client
        self._show = screen.build_log
        self._group = group
        self._epoch = 0
        self._copy: asyncio.Task[None] | None = None

    def follow(self, run: runs_pb2.Run) -> None:
        """Go where the run stands."""
        preparing = run.state == runs_pb2.RUN_STATE_PREPARING
        epoch = run.attempts[-1].epoch if preparing and run.attempts else 0
        if self._show is None or epoch == self._epoch:
            return
        self.stop()
        self._epoch = epoch
        if epoch:
            stream = logs_pb2.LOG_STREAM_BUILD
            pieces = self._client.logs.tail(run.name, epoch=epoch, stream=stream, follow=True)
            self._copy = self._group.create_task(_copy(pieces, self._show))

    def stop(self) -> None:
        """Show no more."""
        if self._copy:
            self._copy.cancel()


def detached(name: str, began: datetime) -> str:
    """Say what goes on after Ctrl-C, and how to come back."""
    run = short(name)
    return (
        f"\ndetached after {words.duration(datetime.now().astimezone() - began)}; the run goes on\n"
        f"  come back:  towline run logs -f {run}\n"
        f"  stop it:    towline run cancel {run}"
    )
