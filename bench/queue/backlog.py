"""Does it matter what waits, or that nothing may be cleaned up? Three queues, each measured in turn.

"shallow" has 1,000 runs waiting, "deep" millions; in "held" 1,000 wait, and another transaction has held a
snapshot open from the beginning, so that the dead rows of all that was drained are still there.
"""

import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from bench.queue.figures import Figures, percentiles
from bench.queue.systems import Driven, Towline
from towline_testing.postgres import PostgresServer

__all__ = ["Backlog", "measure_backlog"]

SHALLOW: Final = 1000
PARTS: Final = 6
"""Of a round."""
QUIET_S: Final = 180.0
DUE_S: Final = 75.0
"""Autovacuum looks at a database once a minute."""
WORKERS: Final = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
DUE: Final = """
SELECT count(*) FROM pg_stat_user_tables
WHERE schemaname = 'queue' AND n_ins_since_vacuum > 1000000
"""
HOLD: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM queue.runs;"
HELD: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND state = 'idle in transaction' AND backend_xmin IS NOT NULL
"""


@dataclass(frozen=True)
class Backlog:
    """How much.

    Attributes:
        deep: Runs that wait in "deep".
        before: Runs drained in the other two before anything is measured.
        runs: Drained of each queue in each round.
        samples: Of dispatch, likewise.
        rounds: How often all are measured.
    """

    deep: int
    before: int
    runs: int
    samples: int
    rounds: int


def measure_backlog(towline: Towline, backlog: Backlog, postgres: PostgresServer) -> Figures:
    """Measure drain and dispatch of all three in turn."""
    figures = Figures()
    with ExitStack() as stack:
        queues: dict[str, Driven] = {}
        for name in ("shallow", "held", "deep"):
            print(f"filling the {name} queue", file=sys.stderr)
            queues[name] = driven = stack.enter_context(towline.running(postgres))
            if name == "held":
                stack.enter_context(_held_snapshot(driven))
            if name == "deep":
                answer = _submit(driven, backlog.deep)
                figures.note(name, "fill", backlog.deep / answer)
            else:
                _submit(driven, SHALLOW)
                _drain(driven, backlog.before)
        postgres.psql("CHECKPOINT")
        _wait_for_quiet(queues["deep"])
        for number in range(backlog.rounds):
            print(f"round {number + 1} of {backlog.rounds}: shallow, deep, held", file=sys.stderr)
            _round(queues, backlog, figures)
        if queues["held"].number(HELD) != 1:
            raise RuntimeError("the snapshot was not held to the end")
    return figures


def _round(queues: Mapping[str, Driven], backlog: Backlog, figures: Figures) -> None:
    """Measure all queues once, a part at a time in turn: what else the machine does falls on all of them."""
    part, samples = backlog.runs // PARTS, backlog.samples // PARTS
    seconds = dict.fromkeys(queues, 0.0)
    ms: dict[str, list[float]] = {name: [] for name in queues}
    order = deque(queues)
    for _ in range(PARTS):
        for name in order:
            driven = queues[name]
            seconds[name] += _drain(driven, part)
            ms[name] += driven.ask("overtake", samples=samples, warm_up=10).said["ms"]
        order.rotate()
    for name in queues:
        median, high = percentiles(ms[name])
        figures.note(name, "drain", PARTS * part / seconds[name])
        figures.note(name, "dispatch, p50", median)
        figures.note(name, "dispatch, p99", high)


def _drain(driven: Driven, runs: int) -> float:
    """Submit runs and drain as many; return the seconds that took. As many wait afterwards as before.

    When the last of them is done, the agents hold what waited behind them, and finish that too: a queue that
    would not get it back had soon nothing to hand out at the end, and so less to do.
    """
    _submit(driven, runs)
    said = driven.ask("drain", runs=runs, variant=driven.about["drain"][0]).said
    _submit(driven, said["runs"] - runs)
    seconds: float = said["seconds"]
    return seconds


def _submit(driven: Driven, runs: int) -> float:
    """Submit by the quickest way there is; return the seconds it took."""
    seconds: float = driven.ask("submit", runs=runs, variant=driven.about["submit"][-1]).said["seconds"]
    return seconds


def _wait_for_quiet(driven: Driven) -> None:
    """Wait until PostgreSQL has done what so many new rows make it do, which would fall on whom it may."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < QUIET_S:
        due = waited < DUE_S and driven.number(DUE)
        if not due and not driven.number(WORKERS):
            return
        time.sleep(1)
    print(f"autovacuum is still at work after {QUIET_S:.0f} s", file=sys.stderr)


@contextmanager
def _held_snapshot(driven: Driven) -> Iterator[None]:
    """Have another transaction look at the queue and stay open."""
    psql = [driven.postgres.binaries / "psql", "-Atq", "-d", driven.postgres.url(driven.database)]
    with subprocess.Popen(psql, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as session:
        assert session.stdin
        print(HOLD, file=session.stdin, flush=True)
        until = time.monotonic() + QUIET_S
        while not driven.number(HELD):
            if session.poll() is not None or time.monotonic() > until:
                raise RuntimeError("no snapshot could be held open")
            time.sleep(0.1)
        yield
