"""What docs/checkpoints.md and the example show is true: a program that is stopped goes on where it was."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import towline
from towline_testing.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SDK = Path(towline.__file__).parents[1]
EXAMPLE = ROOT / "examples/checkpoints/train.py"

Attempt = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    """Run a program as an attempt of a run: with an agent's variables, and an outputs folder of its own."""
    running: list[subprocess.Popen[str]] = []

    def begin(script: Path, epoch: int, shared: Path | None, **config: float) -> "subprocess.Popen[str]":
        home = tmp_path / f"attempt-{epoch}"
        home.mkdir()
        (home / "config.json").write_text(json.dumps(config))
        agents = {
            "TOWLINE_CONFIG": str(home / "config.json"),
            "TOWLINE_OUTPUTS": str(home / "outputs"),
            "TOWLINE_ATTEMPT": str(len(running) + 1),
            "TOWLINE_EPOCH": str(epoch),
            "TOWLINE_STOP_FILE": str(home / "stop.json"),
            "TOWLINE_STOP_SIGNAL": "SIGTERM",
        }
        process = subprocess.Popen(
            [sys.executable, "-S", script],
            env=agents | {"PYTHONPATH": str(SDK)} | ({"CHECKPOINTS": str(shared)} if shared else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def preempt(process: "subprocess.Popen[str]", home: Path, epoch: int) -> str:
    """Do what an agent does, and give what the program said."""
    part = home / "stop.part"
    part.write_text(json.dumps({"reason": "PREEMPTED", "epoch": epoch, "grace_seconds": 15.0}))
    part.replace(home / "stop.json")
    process.send_signal(signal.SIGTERM)
    return ended(process)


def ended(process: "subprocess.Popen[str]") -> str:
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    return said


def test_the_program_of_the_documentation_goes_on_where_it_stopped(attempt: Attempt, tmp_path: Path) -> None:
    page = (ROOT / "docs/checkpoints.md").read_text()
    (snippet,) = re.findall(r"<!-- snippet: .*? -->\n```python\n(.*?)```", page, re.DOTALL)
    script, shared, trained = tmp_path / "train.py", tmp_path / "shared", tmp_path / "trained"
    # Its training leaves a mark, so that it is not stopped before its first step.
    script.write_text(snippet.replace("# train\n", f"; Path({str(trained)!r}).touch()\n"))
    first = attempt(script, 3, shared, steps=10**12)
    eventually(trained.exists, within=30)
    preempt(first, tmp_path / "attempt-3", 3)
    saved = json.loads((shared / "00000003.json").read_text())
    assert 0 < saved["step"] < 10**12
    (shared / "00000003.json").write_text(json.dumps(saved | {"kept": "yes"}))
    ended(attempt(script, 11, shared, steps=saved["step"] + 5))
    assert json.loads((shared / "00000011.json").read_text()) == {"step": saved["step"] + 5, "kept": "yes"}
    assert sorted(file.name for file in shared.iterdir()) == ["00000003.json", "00000011.json"]


def test_the_example_goes_on_where_it_stopped(attempt: Attempt, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    first = attempt(EXAMPLE, 1, shared, steps=2000, save_every=5, step_seconds=0.001)
    eventually(lambda: list(shared.glob("*.json")), within=30)
    begun, stopped = preempt(first, tmp_path / "attempt-1", 1).splitlines()
    assert begun == "attempt 1 begins at step 0"
    found = re.fullmatch(r"stopped at step (\d+): PREEMPTED", stopped)
    assert found, stopped
    again = ended(attempt(EXAMPLE, 2, shared, steps=2000, step_seconds=0)).splitlines()
    assert again == [f"attempt 2 begins at step {found[1]}", "found 3.00 x + 1.00"]
    assert json.loads((tmp_path / "attempt-2/outputs/line.json").read_text())["step"] == 2000


def test_without_a_shared_folder_the_example_leaves_its_checkpoint_in_its_outputs(
    attempt: Attempt, tmp_path: Path
) -> None:
    process = attempt(EXAMPLE, 4, None, steps=10**9, save_every=5, step_seconds=0.001)
    outputs = tmp_path / "attempt-4/outputs"
    eventually(lambda: list(outputs.glob("*.json")), within=30)
    said = preempt(process, tmp_path / "attempt-4", 4)
    step = json.loads((outputs / "checkpoint-00000004.json").read_text())["step"]
    assert f"stopped at step {step}: PREEMPTED" in said


def test_the_example_is_stopped_by_ctrl_c_on_ones_own_machine(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOWLINE_")}
    own = {"PYTHONPATH": str(SDK), "TOWLINE_RECORD": "0", "CHECKPOINTS": str(tmp_path / "fit")}
    process = subprocess.Popen(
        [sys.executable, EXAMPLE],
        cwd=tmp_path,
        env=environment | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "attempt 1 begins at step 0\n"
    process.send_signal(signal.SIGINT)
    assert re.fullmatch(r"stopped at step \d+: as asked\n", ended(process))
