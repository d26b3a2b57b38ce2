"""A program learns that it shall stop, why and how soon: by real signals, in a process of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import towline

SDK = Path(towline.__file__).parents[1]
WITHIN_S = 30

LOOP = """
import sys, time, towline
stop = towline.catch_stop()
print("ready", stop.requested, repr(stop.reason), stop.seconds_left, flush=True)
while not stop.requested:
    time.sleep(0.01)
left = stop.seconds_left
print("stopped", repr(stop.reason), "inf" if left == float("inf") else round(left), flush=True)
sys.stdin.read()
"""


class Program:
    """A program that is being run; it says `ready` when it may be signalled.

    LOOP ends only when its standard input does, so that no signal meets an interpreter that is about to go.
    """

    def __init__(self, code: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            env={"PYTHONPATH": str(SDK)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def say(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        said, errors = self._process.communicate(timeout=WITHIN_S)
        return self._process.returncode, said.strip(), errors

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Program] = []

    def begin(code: str, **environment: str) -> Program:
        started.append(Program(code, environment))
        return started[-1]

    yield begin
    for program in started:
        program.kill()


@pytest.fixture
def stop_file(tmp_path: Path) -> Path:
    return tmp_path / "stop.json"


def written(reason: str = "PREEMPTED", grace: object = 15.0) -> str:
    return json.dumps({"reason": reason, "epoch": 7, "grace_seconds": grace})


@pytest.mark.parametrize("reason", ["CANCELLED", "PREEMPTED", "TIMEOUT", "LEASE_EXPIRED"])
def test_the_agents_signal_comes_with_its_reason_and_time(start: Start, stop_file: Path, reason: str) -> None:
    program = start(LOOP, TOWLINE_STOP_FILE=str(stop_file), TOWLINE_STOP_SIGNAL="SIGUSR1")
    assert program.line() == "ready False '' inf"
    stop_file.write_text(written(reason, 40))
    program.signal(signal.SIGUSR1)
    assert program.end() == (0, f"stopped '{reason}' 40", "")


def test_only_the_named_signal_is_taken(start: Start, stop_file: Path) -> None:
    program = start(LOOP, TOWLINE_STOP_FILE=str(stop_file), TOWLINE_STOP_SIGNAL="SIGUSR1")
    program.line()
    program.signal(signal.SIGTERM)
    assert program.end()[0] == -signal.SIGTERM


@pytest.mark.parametrize("content", [None, "", '{"reason": "CANC', "[1]", "{}", '{"reason": null}'])
def test_without_a_whole_file_the_signal_counts_all_the_same(
    start: Start, stop_file: Path, content: str | None
) -> None:
    program = start(LOOP, TOWLINE_STOP_FILE=str(stop_file), TOWLINE_STOP_SIGNAL="SIGTERM")
    program.line()
    if content is not None:
        stop_file.write_text(content)
    program.signal(signal.SIGTERM)
    assert program.end() == (0, "stopped '' inf", "")


@pytest.mark.parametrize("grace", ["soon", None, [1]])
def test_a_time_that_is_none_is_not_known(start: Start, stop_file: Path, grace: object) -> None:
    program = start(LOOP, TOWLINE_STOP_FILE=str(stop_file))
    program.line()
    stop_file.write_text(written(grace=grace))
    program.signal(signal.SIGTERM)
    assert program.end() == (0, "stopped 'PREEMPTED' inf", "")


def test_a_program_that_no_signal_reaches_sees_the_file(start: Start, stop_file: Path) -> None:
    program = start(LOOP, TOWLINE_STOP_FILE=str(stop_file), TOWLINE_STOP_SIGNAL="SIGTERM")
    program.line()
    stop_file.write_text(written())
    assert program.end()[1].startswith("stopped")


def test_a_signal_that_meets_a_program_on_its_way_out_leaves_its_exit_code(
    start: Start, stop_file: Path
) -> None:
    code = """
import os, signal, sys, towline
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)  # the interpreter has given its handlers back
late = Late()
stop = towline.catch_stop()
sys.exit(3 if stop.requested else 4)
"""
    stop_file.write_text(written())
    stopped = start(code, TOWLINE_STOP_FILE=str(stop_file), TOWLINE_STOP_SIGNAL="SIGTERM")
    assert stopped.end()[0] == 3
    stop_file.unlink()
    ended_by_itself = start(code, TOWLINE_STOP_FILE=str(stop_file), TOWLINE_STOP_SIGNAL="SIGTERM")
    assert ended_by_itself.end()[0] == -signal.SIGTERM, "nobody asked it to stop: the signal is not for it"


def test_a_cancel_that_comes_later_replaces_the_reason(start: Start, stop_file: Path) -> None:
    code = """
import towline
stop = towline.catch_stop()
for _ in range(4):
    input()
    print(stop.reason, flush=True)
"""
    program = start(code, TOWLINE_STOP_FILE=str(stop_file))
    seen = []
    for content in (written(), written("CANCELLED"), '{"reason', None):
        if content is None:
            stop_file.unlink()
        else:
            stop_file.write_text(content)
        program.say("look")
        seen.append(program.line())
    assert seen == ["PREEMPTED", "CANCELLED", "CANCELLED", "CANCELLED"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_on_ones_own_machine_sigterm_and_ctrl_c_ask_to_stop(start: Start, number: int) -> None:
    program = start(LOOP)
    program.line()
    program.signal(number)
    assert program.end() == (0, "stopped '' inf", "")


def test_a_second_ctrl_c_interrupts(start: Start) -> None:
    program = start(
        "import time, towline\n"
        "stop = towline.catch_stop()\n"
        "print('ready', flush=True)\n"
        "while not stop.requested: time.sleep(0.01)\n"
        "print('saving', flush=True)\n"
        "time.sleep(60)\n"
    )
    assert program.line() == "ready"
    program.signal(signal.SIGINT)
    assert program.line() == "saving"
    program.signal(signal.SIGINT)
    code, _, errors = program.end()
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in errors


def test_sigint_from_an_agent_never_interrupts(start: Start, stop_file: Path) -> None:
    code = LOOP + "import signal\nsignal.pthread_kill(threading.get_ident(), signal.SIGINT)\nprint('goes on')"
    agents = {"TOWLINE_STOP_FILE": str(stop_file), "TOWLINE_STOP_SIGNAL": "SIGINT"}
    program = start("import threading\n" + code, **agents)
    program.line()
    stop_file.write_text(written())
    program.signal(signal.SIGINT)  # the second one is as from an agent that was started again meanwhile
    assert program.end() == (0, "stopped 'PREEMPTED' 15\ngoes on", "")


def test_a_handler_that_was_there_is_called_too(start: Start) -> None:
    program = start(
        "import signal, time, towline\n"
        "seen = []\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: seen.append(int(number)))\n"
        "stop = towline.catch_stop()\n"
        "assert towline.catch_stop() is stop\n"
        "print('ready', flush=True)\n"
        "while not stop.requested: time.sleep(0.01)\n"
        "print(seen)\n"
    )
    program.line()
    program.signal(signal.SIGTERM)
    assert program.end() == (0, f"[{signal.SIGTERM.value}]", "")


def test_a_forked_worker_is_still_ended_by_sigterm(start: Start) -> None:
    program = start(
        "import multiprocessing, time, towline\n"
        "towline.catch_stop()\n"
        "for _ in range(20):\n"
        "    worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
        "    worker.start(); worker.terminate(); worker.join()\n"
        "    print(worker.exitcode, end=' ')\n"
    )
    assert program.end() == (0, " ".join([str(-signal.SIGTERM.value)] * 20), "")


def test_another_thread_is_told_where_to_call_it(start: Start) -> None:
    program = start(
        "import threading, towline\n"
        "from towline.errors import FailedPrecondition\n"
        "def work():\n"
        "    try: towline.catch_stop()\n"
        "    except FailedPrecondition as error: print(error.reason, error)\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "towline.catch_stop()\n"
    )
    code, said, errors = program.end()
    assert (code, errors) == (0, "")
    assert said.startswith("NOT_MAIN_THREAD towline.catch_stop was called in another thread")


@pytest.mark.parametrize("named", ["TERM", "15", "SIGKILL", "SIG_DFL"])
def test_a_signal_that_cannot_be_caught_is_named(start: Start, named: str) -> None:
    program = start("import towline; towline.catch_stop()", TOWLINE_STOP_SIGNAL=named)
    code, _, errors = program.end()
    assert code == 1
    assert f"TOWLINE_STOP_SIGNAL is '{named}'" in errors


def test_time_runs_out_from_the_signal_on(start: Start, stop_file: Path) -> None:
    program = start(
        "import time, towline\n"
        "stop = towline.catch_stop()\n"
        "print('ready', flush=True)\n"
        "while not stop.requested: time.sleep(0.01)\n"
        "while stop.seconds_left: time.sleep(0.01)\n",
        TOWLINE_STOP_FILE=str(stop_file),
    )
    program.line()
    stop_file.write_text(written(grace=0.2))
    program.signal(signal.SIGTERM)
    assert program.end() == (0, "", "")


def test_a_run_knows_its_attempt_and_epoch(start: Start, tmp_path: Path) -> None:
    code = "import towline; run = towline.init(record=False); print(run.attempt, run.epoch)"
    assert start(code).end()[1] == "1 0"
    (tmp_path / "config.json").write_text("{}")
    agents = {"TOWLINE_CONFIG": str(tmp_path / "config.json"), "TOWLINE_ATTEMPT": "3", "TOWLINE_EPOCH": "12"}
    assert start(code, **agents).end()[1] == "3 12"
