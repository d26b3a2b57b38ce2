"""The life of `towline up`: start everything in order, keep it running, end it in order."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from towline.embedded import default_queue, services
from towline.embedded.going_on import going_on
from towline.embedded.layout import Layout
from towline.embedded.leftovers import end_leftovers
from towline.embedded.postgres import Postgres
from towline.embedded.probes import check_health, summarise
from towline.embedded.processes import ProcessId
from towline.embedded.program import Program, Report, Supervised
from towline.embedded.state import StateFile, owning, write_atomically
from towline.embedded.summary import Summary
from towline.errors import FailedPrecondition, TowlineError

__all__ = ["already_running", "supervise"]


async def supervise(layout: Layout, report: Report, ready: Callable[[Summary], None]) -> None:
    """Run everything until SIGINT, SIGTERM or SIGHUP, then end it in order; a second signal hurries.

    Args:
        layout: The data folder.
        report: Told about each process.
        ready: Called once, when all are up and endpoints.json is there.

    Raises:
        FailedPrecondition: Another supervisor has the folder (ALREADY_RUNNING), or the folder or the
            machine lacks something.
        Unavailable: A process could not be started; whatever was started has ended again.
    """
    services.require_extras()
    postgres = Postgres(layout)
    layout.make()
    with owning(layout) as mine:
        if not mine:
            raise already_running(layout)
        state = StateFile(layout.state)
        state.supervised_by(ProcessId.of(os.getpid()))
        async with _signals() as signals:
            await end_leftovers(layout, state, report, signals.hurry)
            house = _House(layout, state, report)
            try:
                await _until_stopped(signals.stop, house, postgres, ready)
            finally:
                layout.endpoints.unlink(missing_ok=True)
                await house.end(signals.hurry)
                state.supervised_by(None)
                if event := going_on(layout):
                    report(event)


def already_running(layout: Layout) -> FailedPrecondition:
    """Make the error that says who has the folder, and where its services are."""
    state = StateFile(layout.state).now
    pid = str(state.supervisor.pid) if state.supervisor else "?"
    where = ", ".join(f"{name} {address}" for name, address in state.addresses.items())
    return FailedPrecondition(
        f"towline is already up in {layout.root} (pid {pid}; {where or 'starting'}); "
        f"{''.join(f'its {name} was drained and has left; ' for name in state.drained)}"
        f"end it with `towline down --data-dir {layout.root}`",
        reason="ALREADY_RUNNING",
        metadata={"pid": pid, **state.addresses},
    )


class _House:
    """The processes that run, in the order they were started."""

    def __init__(self, layout: Layout, state: StateFile, report: Report) -> None:
        self._layout = layout
        self._state = state
        self._report = report
        self._running: list[Supervised] = []

    async def live(self, postgres: Postgres, ready: Callable[[Summary], None]) -> None:
        """Start everything, then keep it running."""
        await postgres.prepare()
        await self._start(postgres.program())
        addresses = services.choose_addresses(self._state.now.addresses)
        self._state.listening(addresses)
        programs = services.programs(self._layout, addresses, postgres.url)
        await self._start(programs["registry"], programs["queue"])
        await default_queue.ensure(addresses["registry"], addresses["queue"])
        # Not at the same time: an agent that finds no queue service waits before it tries again.
        await self._start(programs["agent"])
        await check_health(addresses)
        summary = await summarise(self._layout, addresses)
        clients = {"registry": addresses["registry"], "queue": addresses["queue"]}
        write_atomically(self._layout.endpoints, json.dumps(clients) + "\n")
        ready(summary)
        async with asyncio.TaskGroup() as group:
            for process in self._running:
                group.create_task(process.keep())

    async def end(self, hurry: asyncio.Event) -> None:
        """End what runs, the last one started first."""
        while self._running:
            await self._running[-1].stop(hurry)
            self._running.pop()

    async def _start(self, *programs: Program) -> None:
        started = [Supervised(program, self._layout, self._state, self._report) for program in programs]
        self._running += started
        async with asyncio.TaskGroup() as group:
            for process in started:
                group.create_task(process.start())


async def _until_stopped(
    stop: asyncio.Event, house: _House, postgres: Postgres, ready: Callable[[Summary], None]
) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            life = group.create_task(house.live(postgres, ready))
            life.add_done_callback(lambda _life: stop.set())
            await stop.wait()
            life.cancel()
    except* TowlineError as failures:
        raise _first(failures) from None


def _first(group: BaseExceptionGroup[TowlineError]) -> TowlineError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


@dataclass(frozen=True)
class _Signals:
    stop: asyncio.Event
    hurry: asyncio.Event

    def received(self) -> None:
        """Stop at the first signal, hurry at the second."""
        (self.hurry if self.stop.is_set() else self.stop).set()


@asynccontextmanager
async def _signals() -> AsyncIterator[_Signals]:
    signals = _Signals(asyncio.Event(), asyncio.Event())
    loop = asyncio.get_running_loop()
    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        heeded.append(signal.SIGHUP)
    for number in heeded:
        loop.add_signal_handler(number, signals.received)
    try:
        yield signals
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)
