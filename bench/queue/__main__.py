"""The queue's benchmark. Prints a table, and on its last line the headline as one JSON object.

usage: python -m bench.queue [--peers PYTHON] [--against CHECKOUT] [--only submit,drain,…] …

Real processes: this checkout's registry and queue service, PostgreSQL 18 with fsync, agents that speak the
protocol and execute nothing; beside them pgqueuer and procrastinate, each through its own API in a process of
its own. Each system works in a fresh database of the same server, in turn within each round. --against adds
the services of another checkout, driven by this one's client.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

os.environ |= {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}
ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from bench.parts import parts_of  # noqa: E402 - the path is set above
from bench.queue import headline  # noqa: E402 - likewise
from bench.queue.backlog import Backlog, measure_backlog  # noqa: E402 - likewise
from bench.queue.comparison import Turn, compare  # noqa: E402 - likewise
from bench.queue.machine import describe  # noqa: E402 - likewise
from bench.queue.report import table  # noqa: E402 - likewise
from bench.queue.scale import Scale, measure_scale  # noqa: E402 - likewise
from bench.queue.systems import Peer, System, Towline  # noqa: E402 - likewise
from towline_testing.postgres import EMBEDDED, PostgresServer, running_postgres  # noqa: E402 - likewise

COMPARED: Final = ("submit", "drain", "dispatch", "load")
PARTS: Final = (*COMPARED, "backlog", "scale")
PEERS: Final = ("pgqueuer", "procrastinate")
SPARE_FILES: Final = 1000


def main() -> None:
    """Measure, and tell."""
    given = _arguments()
    _allow_files(given.sessions + SPARE_FILES)
    with running_postgres(EMBEDDED, fsync=True) as postgres:
        results = _measure(given, postgres)
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / "queue.json"
    file.write_text(json.dumps(results, indent=1) + "\n")
    if given.peers:
        plot = [given.peers, "-m", "bench.queue.plot", file, file.with_suffix(".svg")]
        subprocess.run(plot, check=True, cwd=ROOT)
    print(table(results))
    print(json.dumps(results["headline"]))


def _measure(given: argparse.Namespace, postgres: PostgresServer) -> dict[str, Any]:
    towline = Towline("towline", given.drain_sessions, given.drain_slots)
    began = time.monotonic()
    parameters = {name: value for name, value in vars(given).items() if isinstance(value, int | float)}
    results: dict[str, Any] = {"machine": describe(postgres), "parameters": parameters, "versions": {}}
    found: dict[str, float] = {}
    if compared := given.only & set(COMPARED):
        systems: list[System] = [towline]
        if given.against:
            systems.append(Towline("other", given.drain_sessions, given.drain_slots, given.against.resolve()))
        if given.peers:
            systems += [Peer(name, given.peers.absolute()) for name in PEERS]
        turn = Turn(frozenset(compared), given.submitted, given.drained, given.samples, given.load_seconds)
        figures, results["versions"] = compare(systems, turn, given.rounds, postgres)
        results["comparison"] = figures.values
        found |= headline.comparison_headline(figures)
    if "backlog" in given.only:
        backlog = Backlog(given.deep, given.before, given.backlog_runs, given.samples, given.backlog_rounds)
        figures = measure_backlog(towline, backlog, postgres)
        results["backlog"] = figures.values
        found |= headline.backlog_headline(figures)
    if "scale" in given.only:
        scale = Scale(given.sessions, given.fleet_processes, given.holders, given.idle_seconds)
        results["scale"] = measure_scale(towline, scale, postgres)
        found |= headline.scale_headline(results["scale"])
    results["seconds"] = round(time.monotonic() - began)
    return results | {"headline": {name: float(f"{value:.4g}") for name, value in found.items()}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.queue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--peers", type=Path, help="Python that has requirements/bench.txt; without it, Towline alone")
    add("--against", type=Path, help="another checkout, with its .venv made")
    add("--only", type=parts_of(PARTS), default=set(PARTS), help=f"of {','.join(PARTS)}")
    add("--results", type=Path, default=ROOT / "bench/results", help="folder for queue.json and queue.svg")
    add("--rounds", type=int, default=3)
    add("--submitted", type=int, default=60_000, help="runs submitted each time; thousands")
    add("--drained", type=int, default=40_000, help="runs drained each time; thousands")
    add("--samples", type=int, default=300, help="of dispatch each time")
    add("--load-seconds", type=float, default=8.0)
    add("--drain-sessions", type=int, default=8, help="agents that drain Towline's queue")
    add("--drain-slots", default="128,1024", help="of each such agent; each number is tried")
    add("--deep", type=int, default=2_000_000, help="runs that wait in the deep queue")
    add("--before", type=int, default=100_000, help="runs drained under the held snapshot")
    add("--backlog-rounds", type=int, default=5)
    add("--backlog-runs", type=int, default=24_000, help="drained of each such queue each time")
    add("--sessions", type=int, default=5000, help="agents of the fleet")
    add("--fleet-processes", type=int, default=4, help="that the agents of the fleet run in")
    add("--holders", type=int, default=10, help="one in so many agents holds an attempt when all reconnect")
    add("--idle-seconds", type=float, default=25.0)
    return parser.parse_args()


def _allow_files(most: int) -> None:
    """Let this process and those it starts have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # root may
    elif soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


if __name__ == "__main__":
    main()
