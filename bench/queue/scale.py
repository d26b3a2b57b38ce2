"""Thousands of agents on one queue service: memory, CPU while nothing happens, all back at once."""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from bench.queue.processes import cpu_seconds, resident_kib
from bench.queue.side_process import SideProcess, side_process
from bench.queue.systems import Driven, Towline
from towline_testing.postgres import PostgresServer

__all__ = ["Scale", "measure_scale"]

OPEN_S: Final = 180.0
STORM_S: Final = 60.0
HOLD_S: Final = 60.0


@dataclass(frozen=True)
class Scale:
    """How much.

    Attributes:
        sessions: Of agents, each on its own connection.
        processes: That they are spread over.
        holders: One in so many agents holds a running attempt in the storm.
        idle_s: How long nothing happens.
    """

    sessions: int
    processes: int
    holders: int
    idle_s: float


def measure_scale(towline: Towline, scale: Scale, postgres: PostgresServer) -> dict[str, Any]:
    """Open the sessions, let them be idle, break their connections; return the figures."""
    held = scale.sessions // scale.holders
    with ExitStack() as stack:
        driven = stack.enter_context(towline.running(postgres))
        assert driven.services
        # What is loaded on first use is no session's.
        driven.ask("dispatch", samples=20, warm_up=20, variant="one call each")
        queue = driven.services.queue_pid
        each = -(-scale.sessions // scale.processes)
        sizes = [min(each, scale.sessions - start) for start in range(0, scale.sessions, each)]
        fleet = _Fleet(
            [stack.enter_context(side_process("fleet", driven.services.queue, str(size))) for size in sizes]
        )
        print(f"opening {scale.sessions} sessions", file=sys.stderr)
        before, began = resident_kib(queue), time.monotonic()
        interval_s = max(fleet.ask("open", "interval_s", within_s=OPEN_S))
        opened_s = time.monotonic() - began
        time.sleep(min(2 * interval_s, scale.idle_s))
        idle = _idle(driven, fleet, scale.idle_s)
        memory = resident_kib(queue)
        driven.ask("submit", runs=held, variant="one at a time")
        _wait_until_running(fleet, held)
        print("breaking all connections", file=sys.stderr)
        storm = _storm(driven, fleet, scale.sessions, held)
    return {
        "sessions": scale.sessions,
        "opened_s": opened_s,
        "heartbeat_interval_s": interval_s,
        "rss_per_session_kib": (memory - before) / scale.sessions,
        "rss_kib": memory,
        "idle_cpu": idle,
        "storm": storm,
    }


class _Fleet:
    def __init__(self, shares: Sequence[SideProcess]) -> None:
        self._shares = shares
        self._threads = ThreadPoolExecutor(len(shares))

    @property
    def pids(self) -> list[int]:
        return [share.pid for share in self._shares]

    def ask(self, step: str, figure: str, **arguments: Any) -> list[Any]:
        """Have all shares do a step at the same time; return a figure of each."""
        return [said[figure] for said in self.ask_all(step, **arguments)]

    def ask_all(self, step: str, **arguments: Any) -> list[dict[str, Any]]:
        return list(self._threads.map(lambda share: share.ask(step, **arguments), self._shares))


def _idle(driven: Driven, fleet: _Fleet, seconds: float) -> dict[str, float]:
    """Return the cores that each part uses while nothing happens."""
    print(f"idle for {seconds:.0f} s", file=sys.stderr)
    assert driven.services
    parts = {
        "queue": [driven.services.queue_pid],
        "registry": [driven.services.registry_pid],
        "postgresql": [driven.postgres.pid],
        "agents": fleet.pids,
    }
    before = {name: cpu_seconds(*pids) for name, pids in parts.items()}
    began = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - began
    return {name: (cpu_seconds(*pids) - before[name]) / elapsed for name, pids in parts.items()}


def _wait_until_running(fleet: _Fleet, held: int) -> None:
    until = time.monotonic() + HOLD_S
    while (running := sum(fleet.ask("holding", "running"))) != held:
        if time.monotonic() > until:
            raise RuntimeError(f"{running} of {held} runs are RUNNING after {HOLD_S:.0f} s")
        time.sleep(0.1)


def _storm(driven: Driven, fleet: _Fleet, sessions: int, held: int) -> dict[str, Any]:
    """Break all connections; return how long it took until the last agent was welcome, and what was lost."""
    assert driven.services
    parts = {
        "queue": [driven.services.queue_pid],
        "postgresql": [driven.postgres.pid],
        "agents": fleet.pids,
    }
    before = {name: cpu_seconds(*pids) for name, pids in parts.items()}
    told = fleet.ask_all("storm", within_s=STORM_S)
    used = {name: cpu_seconds(*pids) - before[name] for name, pids in parts.items()}
    broken, back, lost = (sum(share[name] for share in told) for name in ("broken", "back", "lost"))
    if broken < sessions:
        raise RuntimeError(f"only {broken} connections were there to break, for {sessions} sessions")
    committed = sum(fleet.ask("finish", "committed", within_s=HOLD_S))
    errors: dict[str, int] = {}
    for share in told:
        for code, count in share["errors"].items():
            errors[code] = errors.get(code, 0) + count
    return {
        "seconds": max(share["ended"] for share in told) - min(share["began"] for share in told),
        "lost": (sessions - back) + lost + (held - lost - committed),
        "held": held,
        "agents_not_back": sessions - back,
        "attempts_lost": lost,
        "results_not_committed": held - lost - committed,
        "errors": errors,
        "cpu_s": used,
    }
