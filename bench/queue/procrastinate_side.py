"""procrastinate, driven through its own API: arguments: POSTGRES_URL"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

import procrastinate

from bench.queue.sides import IN_FLIGHT, MOST_IN_FLIGHT, PAYLOAD, Load, Probes, pause, submit_in_flight

PROBE: Final = PAYLOAD.replace("x", "p")
CONCURRENCY: Final = 64
PACKAGES: Final = ("procrastinate", "psycopg", "uvloop")
DRAIN: Final = f"concurrency {CONCURRENCY}"


class ProcrastinateSide:
    """See Side."""

    def __init__(self, app: procrastinate.App) -> None:
        self._app = app
        self._probes = Probes()
        self._load = Load(0, self._defer)

        @app.task(name="work")
        async def work(payload: str) -> None:
            if payload == PROBE:
                self._probes.arrived()
            else:
                self._load.done += 1

        self._work = work

    async def about(self) -> dict[str, Any]:
        versions = {name: version(name) for name in PACKAGES}
        submit = list(IN_FLIGHT)
        return {"versions": versions, "submit": submit, "drain": [DRAIN], "dispatch": ["one call each"]}

    async def submit(self, runs: int, variant: str) -> dict[str, Any]:
        return await submit_in_flight(runs, lambda count, _lane: self._defer(count), IN_FLIGHT[variant])

    async def drain(self, runs: int, variant: str) -> dict[str, Any]:  # noqa: ARG002 - it has but one
        self._load = Load(0, self._defer)
        began = time.perf_counter()
        await self._app.run_worker_async(
            concurrency=CONCURRENCY, wait=False, install_signal_handlers=False, listen_notify=False
        )
        seconds = time.perf_counter() - began
        if self._load.done != runs:
            raise RuntimeError(f"{self._load.done} runs came out of {runs}")
        return {"seconds": seconds}

    async def dispatch(self, samples: int, warm_up: int, variant: str) -> dict[str, Any]:  # noqa: ARG002 - it has but one
        self._probes = Probes()
        async with self._working():
            for _ in range(warm_up + samples):
                await self._probes.time(lambda: self._work.defer_async(payload=PROBE))
                await pause()
        return {"ms": self._probes.ms[warm_up:]}

    async def load(self, rate: float, seconds: float, variant: str) -> dict[str, Any]:  # noqa: ARG002 - see drain
        self._probes = Probes()
        self._load = Load(rate, self._defer)
        async with self._working(), self._load.running():
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await self._probes.time(lambda: self._work.defer_async(payload=PROBE))
                await pause()
        return {"ms": self._probes.ms, "runs": self._load.done}

    async def _defer(self, count: int) -> None:
        await self._work.batch_defer_async(*[{"payload": PAYLOAD}] * count)

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        """Run a worker while the block runs."""
        async with asyncio.TaskGroup() as group:
            worker = group.create_task(
                self._app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
            )
            await asyncio.sleep(1)  # it does not tell when it listens
            yield
            worker.cancel()  # its way to be stopped from the program that runs it


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[ProcrastinateSide]:
    """Connect and install procrastinate's tables."""
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=url, min_size=MOST_IN_FLIGHT, max_size=10)
    )
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        yield ProcrastinateSide(app)
