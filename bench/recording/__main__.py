"""What recording costs a program at its start. Prints a table, and the figures as one JSON object last.

usage: python -m bench.recording [--rounds N]

Each figure is the median over fresh processes, in milliseconds, in a checkout of 1,000 files. Nobody listens
at the registry's address: what happens at a program's end is not measured here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FILES: Final = 1000

NOTHING: Final = "import json, typing, pathlib, argparse, sys, time\n"
MEASURED: Final = """
import argparse, json, sys, time
begun = time.perf_counter()
import towline
imported = time.perf_counter()
run = towline.init({"lr": 0.1, "model": {"width": 8}}, args=argparse.Namespace(epochs=3))
started = time.perf_counter()
for step in range(100_000):
    run.summary["step"] = step
counted = time.perf_counter()
print(json.dumps({
    "import": imported - begun, "init": started - imported, "100k results": counted - started,
}), flush=True)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.recording")
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(Path(folder), rounds)
    for name, milliseconds in figures.items():
        sys.stdout.write(f"{name:36} {milliseconds:8.1f} ms\n")
    sys.stdout.write(json.dumps({"rounds": rounds, "ms": figures}) + "\n")


def _measure(folder: Path, rounds: int) -> dict[str, float]:
    project, environment = _project(folder)

    def run(*command: str) -> tuple[float, str]:
        """Run a program; return the seconds until its first line, and that line."""
        begun = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as program:
            line = program.stdout.readline() if program.stdout else ""
            return time.perf_counter() - begun, line

    inside: dict[str, list[float]] = {}
    plain, tracked = [], []
    for _ in range(rounds):
        _, line = run(sys.executable, "measured.py")
        for name, seconds in json.loads(line).items():
            inside.setdefault(name, []).append(seconds)
        plain.append(run(sys.executable, "plain.py")[0])
        command = (str(Path(sys.executable).with_name("towline")), "track", "--", sys.executable, "plain.py")
        tracked.append(run(*command)[0])
    figures = {name: median(seconds) for name, seconds in inside.items()}
    figures |= {"python until its first line": median(plain), "the same below towline track": median(tracked)}
    return {name: round(1000 * seconds, 1) for name, seconds in figures.items()}


def _project(folder: Path) -> tuple[Path, dict[str, str]]:
    project = folder / "project"
    for number in range(FILES):
        place = project / f"package{number % 100}" / f"module{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"x = {number}\n")
    (project / "measured.py").write_text(MEASURED)
    (project / "plain.py").write_text(NOTHING + "print('ready', flush=True)\n")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    (folder / "tmp").mkdir()
    nowhere = {"TOWLINE_REGISTRY_ADDRESS": "127.0.0.1:1", "TOWLINE_QUEUE_ADDRESS": "127.0.0.1:1"}
    kept = {"TOWLINE_OFFLINE_DIR": str(folder / "offline"), "TMPDIR": str(folder / "tmp")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOWLINE_")}
    return project, inherited | nowhere | kept | {"PYTHONPATH": str(ROOT / "sdk")}


if __name__ == "__main__":
    main()
