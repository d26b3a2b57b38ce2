"""`make chaos`: real processes, real PostgreSQL, real containers, real faults; then the model. See --help.

Prints a table and, last, one line of JSON. Exit status 0 only if every scenario survived and no count is off.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

ROOT: Final = Path(__file__).resolve().parents[2]
# This tree's code, whatever is installed: `mutants.py` runs copies of the tree.
_PATH: Final = [
    str(ROOT / package)
    for package in (
        "tests/support",
        "tests/chaos",
        "sdk",
        "services/queue",
        "services/registry",
        "services/agent",
    )
]
sys.path[:0] = _PATH

# Programs are started while gRPC runs; its fork handlers crash some of them before they are executed.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import catalogue  # noqa: E402 - after the path
import lane  # noqa: E402
from lane import Outcome  # noqa: E402

# The real cores through a virtual network, and the protocol on a page through spin.
_MODELS: Final = (ROOT / "tests/model/run.py", ROOT / "tests/formal/check.py")
_LONGEST_S: Final = 180.0


@dataclass
class _Lane:
    process: Any
    orders: "Queue[str | None]"
    at: str = ""
    since: float = 0.0


def main() -> int:
    """Play what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", help="names, or parts of names; none: all")
    parser.add_argument("--lanes", type=int, default=2, help="scenarios at once")
    parser.add_argument("--no-model", action="store_true", help="leave the model checker out")
    parser.add_argument("--exact", action="store_true", help="take names as whole names")
    parser.add_argument("--keep", action="store_true", help="keep logs of scenarios that survived too")
    parser.add_argument("--list", action="store_true", help="name the scenarios, and end")
    options = parser.parse_args()
    chosen = catalogue.chosen(options.scenarios, exact=options.exact)
    if options.list:
        for name, scenario in chosen.items():
            _say(f"{name:<42} {(scenario.__doc__ or '').strip()}")
        return 0
    if not chosen:
        sys.exit(f"towline: no scenario is called like {' '.join(options.scenarios)}; see --list")
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    keep = Path(tempfile.mkdtemp(prefix="towline-chaos-logs-"))
    began = time.monotonic()
    outcomes = _play(list(chosen), max(1, min(options.lanes, len(chosen))), keep, options.keep)
    model = {} if options.no_model or options.scenarios else _model()
    _table(outcomes, time.monotonic() - began)
    if model.get("failed"):
        _say(f"model: {model['failed']}")
    if not any(outcome.logs for outcome in outcomes):
        shutil.rmtree(keep)
    summary = _summary(outcomes, model)
    _say(json.dumps(summary))
    whole = len(outcomes) == len(chosen) and all(outcome.survived for outcome in outcomes)
    return 0 if whole and not model.get("violations") and not model.get("failed") else 1


def _say(line: str, *, aside: bool = False) -> None:
    """Write a line of the result, or one on the way to it."""
    stream = sys.stderr if aside else sys.stdout
    stream.write(f"{line}\n")
    stream.flush()


def _interrupt() -> None:
    raise KeyboardInterrupt


def _play(names: list[str], lanes: int, keep: Path, always: bool) -> list[Outcome]:
    """Run scenarios on lanes, each its own process; a lane that hangs or dies fails its scenario."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    waiting, outcomes = list(names), []
    team: dict[int, _Lane] = {}
    try:
        for number in range(lanes):
            orders: Any = context.Queue()
            process = context.Process(target=_work, args=(number, orders, results, keep, always))
            process.start()
            team[number] = _Lane(process, orders)
        while team:
            try:
                number, said = results.get(timeout=1)
            except Exception:
                for number, one in list(team.items()):
                    hangs = one.at and time.monotonic() - one.since > _LONGEST_S
                    if hangs or not one.process.is_alive():
                        name = one.at or "lane"
                        outcomes.append(
                            Outcome(name, problems=["its lane hung" if hangs else "its lane died"])
                        )
                        _end(one)
                        del team[number]
                continue
            if isinstance(said, Outcome):
                outcomes.append(said)
                _progress(said)
            one = team[number]
            one.at, one.since = (waiting.pop(0) if waiting else ""), time.monotonic()
            one.orders.put(one.at or None)
            if not one.at:
                one.process.join(120)
                del team[number]
    finally:
        for one in team.values():
            _end(one)
    outcomes += [Outcome(name, problems=["was never run"]) for name in waiting]
    return sorted(outcomes, key=lambda outcome: names.index(outcome.name) if outcome.name in names else -1)


def _end(one: _Lane) -> None:
    """End a lane so that it ends what it started; the worst case is a second signal."""
    if one.process.is_alive():
        os.kill(one.process.pid, signal.SIGINT)
        one.process.join(60)
    if one.process.is_alive():
        one.process.kill()
        one.process.join(10)


def _work(number: int, orders: "Queue[str | None]", results: Any, keep: Path, always: bool) -> None:
    """Be a lane: get names, give outcomes."""
    folder = Path(tempfile.mkdtemp(prefix=f"tw{number}-"))
    folder.chmod(0o755)
    try:
        with lane.ground(folder) as on:
            results.put((number, "ready"))
            while name := orders.get():
                results.put((number, lane.play(on, name, catalogue.SCENARIOS[name], keep, always)))
    except KeyboardInterrupt:
        pass
    except Exception:
        traceback.print_exc()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _model() -> dict[str, Any]:
    """Check both models; return what the checker of the real cores says last, or what failed."""
    said: dict[str, Any] = {}
    for script in _MODELS:
        done = subprocess.run(
            [sys.executable, script],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(_PATH)},
        )
        lines = done.stdout.strip().splitlines()
        if done.returncode != 0 or not lines:
            _say(done.stdout[-4000:], aside=True)
            said["failed"] = f"{script.name} ended with {done.returncode}"
        elif lines[-1].startswith("{"):
            said |= json.loads(lines[-1])
    if not said.get("steps"):
        said.setdefault("failed", "the model checker made no step")
    return said


def _progress(outcome: Outcome) -> None:
    word = "survived" if outcome.survived else "FAILED"
    _say(f"{outcome.name:<42} {word:<9} {outcome.seconds:5.1f} s", aside=True)
    for problem in outcome.problems:
        _say(f"    {problem}", aside=True)


def _table(outcomes: list[Outcome], seconds: float) -> None:
    rows = [("scenario", "what was killed", "what was seen", "verdict")]
    rows += [
        (one.name, one.killed, one.seen, f"{'survived' if one.survived else 'FAILED'} {one.seconds:.1f} s")
        for one in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        _say("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    for one in outcomes:
        for problem in one.problems:
            _say(f"{one.name}: {problem}")
        if one.logs:
            _say(f"{one.name}: logs and history are in {one.logs}")
    _say(f"{len(outcomes)} scenarios in {seconds:.0f} s")


def _summary(outcomes: list[Outcome], model: dict[str, Any]) -> dict[str, int]:
    return {
        "scenarios": len(outcomes),
        "survived": sum(outcome.survived for outcome in outcomes),
        "runs": sum(outcome.runs for outcome in outcomes),
        "lost": sum(outcome.lost for outcome in outcomes),
        "duplicated_results": sum(outcome.duplicated for outcome in outcomes),
        "overlapping_containers": sum(outcome.overlapping for outcome in outcomes),
        "orphans": sum(outcome.orphans for outcome in outcomes),
        "model_steps": int(model.get("steps", 0)),
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
