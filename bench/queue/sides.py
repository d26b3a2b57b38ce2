"""A side of the comparison: a program that carries out steps, one JSON line in and one out.

Each system is driven by a process of its own, in its own environment, through its own public API. The process
that asks for the steps measures what they cost, so that the rules are the same for all.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

__all__ = [
    "BATCH",
    "IN_FLIGHT",
    "MOST_IN_FLIGHT",
    "PAYLOAD",
    "Load",
    "Probes",
    "Side",
    "batches",
    "pause",
    "submit_in_flight",
]

BATCH: Final = 1000
"""Runs in one batch of a submission."""
PAYLOAD: Final = '{"payload":"' + "x" * 386 + '"}'
"""What each run carries, 400 bytes."""
IN_FLIGHT: Final = {"one at a time": 1, "four in flight": 4, "eight in flight": 8}
"""The ways to submit batches that every system is tried in, and how many of them are under way at once."""
MOST_IN_FLIGHT: Final = max(IN_FLIGHT.values())
ARRIVAL_S: Final = 120.0
"""Longest that anything may take; a peer that is overloaded is slow, and that is no failure."""
TICK_S: Final = 0.05


class Side(Protocol):
    """One system, with an empty queue of its own. Every step that ends early or loses a run raises."""

    async def about(self) -> dict[str, Any]:
        """Give `versions`, and the names of the `submit`, `drain` and `dispatch` variants."""

    async def submit(self, runs: int, variant: str) -> dict[str, Any]:
        """Submit runs; give the `seconds` until the last one is durable."""

    async def drain(self, runs: int, variant: str) -> dict[str, Any]:
        """Execute that many of the waiting runs; give the `seconds` until the last one's end is durable."""

    async def dispatch(self, samples: int, warm_up: int, variant: str) -> dict[str, Any]:
        """Submit single runs to an idle worker, one at a time; give the `ms` each took to be in its hands."""

    async def load(self, rate: float, seconds: float, variant: str) -> dict[str, Any]:
        """Submit `rate` runs a second to the workers of that drain; give the `ms` of single ones."""


async def submit_in_flight(
    runs: int, submit: Callable[[int, int], Awaitable[object]], in_flight: int
) -> dict[str, float]:
    """Call `submit` (runs, lane), 0 ≤ lane < in_flight, for each batch; give the `seconds` that all took."""
    left = iter(batches(runs))

    async def work(lane: int) -> None:
        for count in left:
            await submit(count, lane)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for lane in range(in_flight):
            group.create_task(work(lane))
    return {"seconds": time.perf_counter() - began}


def batches(runs: int) -> list[int]:
    """Return the sizes of the batches that runs are submitted in: all of BATCH but the last."""
    return [min(BATCH, runs - start) for start in range(0, runs, BATCH)]


async def pause(least_s: float = 0.005, most_s: float = 0.015) -> None:
    """Wait a random short time, so that samples do not fall into step with anything."""
    await asyncio.sleep(random.uniform(least_s, most_s))


class Probes:
    """Single runs that are timed from the call that submits them until a worker has them."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self._arrived = asyncio.Event()
        self._began = 0.0

    def arrived(self) -> None:
        """Note that the run under way is in a worker's hands."""
        self.ms.append((time.perf_counter() - self._began) * 1000)
        self._arrived.set()

    async def time(self, submit: Callable[[], Awaitable[object]]) -> None:
        """Submit one, and wait until it has arrived."""
        self._arrived.clear()
        self._began = time.perf_counter()
        await submit()
        async with asyncio.timeout(ARRIVAL_S):
            await self._arrived.wait()


class Load:
    """Submissions at a steady rate, in a batch each 50 ms."""

    def __init__(self, rate: float, submit: Callable[[int], Awaitable[object]]) -> None:
        self._rate = rate
        self._submit = submit
        self.submitted = 0
        self.done = 0
        """Counted by the workers."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Submit while the block runs, then wait until all is done."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run(over))
            try:
                yield
            finally:
                over.set()
        async with asyncio.timeout(ARRIVAL_S):
            while self.done < self.submitted:
                await pause()

    async def _run(self, over: asyncio.Event) -> None:
        began = time.perf_counter()
        while not over.is_set():
            due = min(int((time.perf_counter() - began + TICK_S) * self._rate) - self.submitted, BATCH)
            if due > 0:
                await self._submit(due)
                self.submitted += due
            await asyncio.sleep(TICK_S * random.uniform(0.5, 1.0))
