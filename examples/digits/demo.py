"""The whole of Towline on one machine: record a run, submit it twice with other parameters, get the outputs.

`make demo` runs this after it has made sure of an environment, a Docker Engine and a base image.
Every step is a command that a person could type; the last line printed is one line of JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "examples/digits/train.py"
FOLDER = ROOT / ".demo"
DATA = FOLDER / "data"
OUTPUTS = FOLDER / "outputs"
SUBMISSIONS = {
    "first_run": {"learning_rate": 0.003, "hidden_units": 64, "epochs": 20},
    "second_run": {"learning_rate": 0.01, "hidden_units": 128, "epochs": 30},
}

console = Console(highlight=False)


@dataclass(frozen=True)
class Result:
    """What became of one execution of the training script."""

    state: str
    image: str
    submit_to_running_s: float
    total_s: float
    accuracy: float


def main() -> None:
    """Run the demonstration; exits with a non-zero status where a step fails."""
    training_python = _training_environment()
    shutil.rmtree(DATA, ignore_errors=True)
    shutil.rmtree(OUTPUTS, ignore_errors=True)
    os.environ["TOWLINE_DATA_DIR"] = str(DATA)
    with _towline_up():
        seconds, accuracy = _record(training_python)
        (job,) = _json("job", "list")
        results = {name: _submit(name, overrides) for name, overrides in SUBMISSIONS.items()}
    _show(seconds, accuracy, results)
    print(
        json.dumps(
            {"job": _short(job["latest_version"])} | {name: vars(result) for name, result in results.items()},
        )
    )
    if any(result.state != "SUCCEEDED" for result in results.values()):
        sys.exit(1)


def _training_environment() -> Path:
    """Make the environment a person would train in: scikit-learn, matplotlib and Towline's small SDK."""
    python = FOLDER / "venv" / "bin" / "python"
    stamp = FOLDER / "venv" / ".complete"
    if not stamp.exists():
        _say("make a training environment (scikit-learn, matplotlib, towline)")
        uv = Path(sys.executable).with_name("uv")
        _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, FOLDER / "venv")
        install = [uv, "pip", "install", "--quiet", "--python", python]
        _run(*install, "--require-hashes", "--requirement", ROOT / "examples/digits/requirements.txt")
        _run(*install, "--constraint", ROOT / "requirements/dev.txt", ROOT)
        stamp.touch()
    return python


@contextmanager
def _towline_up() -> Iterator[None]:
    _say("towline up --detach")
    _towline("up", "--detach")
    try:
        yield
    finally:
        _say("towline down")
        _towline("down")


def _record(python: Path) -> tuple[float, float]:
    _say(f"python {SCRIPT}    (on this machine; towline.init records it)")
    started = time.monotonic()
    _run(python, SCRIPT, env=os.environ | {"TOWLINE_OUTPUTS_DIR": str(OUTPUTS / "desktop")})
    seconds = time.monotonic() - started
    (metrics,) = (OUTPUTS / "desktop").rglob("metrics.json")
    return seconds, _accuracy(metrics)


def _submit(name: str, overrides: dict[str, float]) -> Result:
    settings = [f"--set={key}={value}" for key, value in overrides.items()]
    _say(f"towline submit digits-train {' '.join(settings)}")
    run = _short(_json("submit", "digits-train", "--name", name.replace("_", "-"), *settings)["name"])
    _say(f"towline run logs --follow {run}")
    _towline("run", "logs", "--follow", run)
    _towline("run", "wait", run, check=False)
    facts = _json("run", "show", run)
    state = facts["state"].removeprefix("RUN_STATE_")
    if state != "SUCCEEDED":
        _towline("run", "show", run)
        sys.exit(f"{name} ended {state}")
    folder = OUTPUTS / name.replace("_", "-")
    _say(f"towline run outputs {run} --to {folder.relative_to(ROOT)}")
    _towline("run", "outputs", run, "--to", folder)
    attempt = facts["attempts"][-1]
    created = _moment(facts["create_time"])
    return Result(
        state=state,
        image=attempt["image_outcome"].removeprefix("IMAGE_OUTCOME_").lower(),
        submit_to_running_s=round(_moment(attempt["times"]["start_time"]) - created, 3),
        total_s=round(_moment(facts["end_time"]) - created, 3),
        accuracy=_accuracy(folder / "metrics.json"),
    )


def _show(seconds: float, accuracy: float, results: dict[str, Result]) -> None:
    table = Table(title="digits-train", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "rate", "units", "epochs", "image", "to running", "total"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    table.add_column("accuracy", justify="right", style="green", no_wrap=True)
    table.add_row("this machine", "0.001", "32", "10", "", "", f"{seconds:.2f} s", f"{accuracy:.4f}")
    for name, result in results.items():
        parameters = map(str, SUBMISSIONS[name].values())
        waited, took = f"{result.submit_to_running_s:.2f} s", f"{result.total_s:.2f} s"
        label = name.replace("_", " ")
        table.add_row(label, *parameters, result.image, waited, took, f"{result.accuracy:.4f}")
    console.print()
    console.print(table)
    console.print(f"Outputs, with the confusion matrices: {OUTPUTS.relative_to(ROOT)}/*/\n")


def _accuracy(metrics: Path) -> float:
    value: float = json.loads(metrics.read_text())["accuracy"]
    return value


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _short(name: str) -> str:
    """Write "jobs/a/versions/v0" as "a:v0" and "runs/x" as "x"."""
    return name.partition("/")[2].replace("/versions/", ":")


def _say(step: str) -> None:
    console.print(f"[bold cyan]▸[/] {step}")


def _json(*arguments: str) -> Any:
    return json.loads(_towline(*arguments, "--json", capture=True).stdout)


def _towline(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return _run(Path(sys.executable).with_name("towline"), *arguments, **options)


def _run(
    *command: str | Path, check: bool = True, capture: bool = False, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    stdout = subprocess.PIPE if capture else None
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=stdout, text=True, check=False)
    if check and done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with status {done.returncode}")
    return done


if __name__ == "__main__":
    main()
