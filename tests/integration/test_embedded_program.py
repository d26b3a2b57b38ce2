"""One supervised program: started, started again after each kind of end, and stopped."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from towline.embedded.layout import Layout
from towline.embedded.processes import Ending
from towline.embedded.program import Event, Program, Supervised
from towline.embedded.state import StateFile
from towline.errors import Unavailable
from towline_testing.waiting import eventually_async

# Lives as the lines of a file say, one line a start: "serve", "leave", "fail", "hang".
SCRIPT = """
import pathlib, sys, time
plan, address = map(pathlib.Path, sys.argv[1:])
step, *rest = plan.read_text().split() or ["serve"]
plan.write_text(" ".join(rest))
if step == "fail":
    print("FATAL: no room", "hint", sep="\\n", flush=True)
    sys.exit(3)
if step == "hang":
    time.sleep(60)
address.write_text("here")
if step == "leave":
    while not plan.with_name("leave").exists():
        time.sleep(0.02)
    sys.exit(0)
time.sleep(60)
"""


class Case:
    """A program that follows a plan, and what was reported of it."""

    def __init__(self, folder: Path, plan: str, *, may_leave: bool = False) -> None:
        self.layout = Layout(folder / "data")
        self.layout.make()
        self.state = StateFile(self.layout.state)
        self.events: list[Event] = []
        plan_file = folder / "plan"
        plan_file.write_text(plan)
        address = self.layout.address_file("it")
        self.program = Program(
            "it",
            [sys.executable, "-c", SCRIPT, str(plan_file), str(address)],
            {},
            Ending(grace=timedelta(seconds=5)),
            lambda _pid: address.exists(),
            address_file=address,
            start_limit=timedelta(seconds=2),
            may_leave=may_leave,
        )
        self.supervised = Supervised(self.program, self.layout, self.state, self.events.append)

    @property
    def story(self) -> list[str]:
        return [event.what for event in self.events]

    def details(self, what: str) -> str:
        return "\n".join(event.detail for event in self.events if event.what == what)

    async def said(self, what: str, times: int) -> None:
        async def enough() -> bool:
            return self.story.count(what) >= times

        await eventually_async(enough, within=20)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self.supervised.keep())
            yield
            keeper.cancel()


async def test_it_is_recorded_while_it_runs_and_stopped_in_order(tmp_path: Path) -> None:
    case = Case(tmp_path, "serve")
    await case.supervised.start()
    process = case.state.now.leftovers()["it"]
    assert os.getpgid(process.pid) == process.pid  # Ctrl-C on our terminal does not reach it
    await case.supervised.stop(asyncio.Event())
    assert not process.alive()
    assert case.state.now.processes == {}
    assert case.story == ["starting", "up", "stopping", "stopped"]


async def test_it_is_started_again_after_a_crash_a_failed_start_and_a_hang(tmp_path: Path) -> None:
    case = Case(tmp_path, "serve fail hang serve")
    await case.supervised.start()
    first = case.state.now.leftovers()["it"]
    async with case.kept():
        first.send(signal.SIGKILL)
        await case.said("up", 2)
    assert "was killed by SIGKILL; next try in" in case.details("ended")
    assert "ended with exit code 3 before it was ready: FATAL: no room" in case.details("ended")
    assert "was not ready after 0:00:02" in case.details("ended")
    assert case.story.count("ended") == 3
    second = case.state.now.leftovers()["it"]
    assert second != first
    await case.supervised.stop(asyncio.Event())
    assert not second.alive()


async def test_one_that_was_drained_is_left_alone(tmp_path: Path) -> None:
    case = Case(tmp_path, "leave", may_leave=True)
    await case.supervised.start()
    (tmp_path / "leave").touch()
    async with asyncio.timeout(20):
        await case.supervised.keep()
    assert case.story[-1] == "left"
    assert case.state.now.drained == ("it",)


async def test_one_that_may_not_leave_is_started_again(tmp_path: Path) -> None:
    case = Case(tmp_path, "leave serve")
    await case.supervised.start()
    (tmp_path / "leave").touch()
    async with case.kept():
        await case.said("up", 2)
    await case.supervised.stop(asyncio.Event())


async def test_a_first_start_that_fails_says_why(tmp_path: Path) -> None:
    case = Case(tmp_path, "fail")
    with pytest.raises(Unavailable, match="FATAL: no room") as raised:
        await case.supervised.start()
    assert str(case.layout.log("it")) in raised.value.message
