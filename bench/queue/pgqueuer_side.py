"""pgqueuer, driven through its own API: arguments: POSTGRES_URL"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Final

import asyncpg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.types import QueueExecutionMode

from bench.queue.sides import IN_FLIGHT, MOST_IN_FLIGHT, PAYLOAD, Load, Probes, pause, submit_in_flight

WORK: Final = "work"
PROBE: Final = PAYLOAD.replace("x", "p").encode()
BULK: Final = PAYLOAD.encode()
DRAINS: Final = {
    f"batch {size}, {driver}": (size, driver) for size in (100, 500) for driver in ("connection", "pool")
}
PACKAGES: Final = ("pgqueuer", "asyncpg", "uvloop")


class PgqueuerSide:
    """See Side."""

    def __init__(self, url: str, connections: list[asyncpg.Connection], pool: asyncpg.Pool) -> None:
        self._url = url
        self._submitting = [Queries(AsyncpgDriver(connection)) for connection in connections]
        self._pool = pool

    async def about(self) -> dict[str, Any]:
        versions = {name: version(name) for name in PACKAGES}
        submit = list(IN_FLIGHT)
        return {"versions": versions, "submit": submit, "drain": list(DRAINS), "dispatch": ["one call each"]}

    async def submit(self, runs: int, variant: str) -> dict[str, Any]:
        return await submit_in_flight(runs, self._enqueue, IN_FLIGHT[variant])

    async def drain(self, runs: int, variant: str) -> dict[str, Any]:
        size, driver = DRAINS[variant]
        done = 0

        def take(_job: Job) -> None:
            nonlocal done
            done += 1

        async with self._worker(take, driver) as worker:
            began = time.perf_counter()
            await worker.qm.run(
                dequeue_timeout=timedelta(seconds=1), batch_size=size, mode=QueueExecutionMode.drain
            )
            seconds = time.perf_counter() - began
        if done != runs:
            raise RuntimeError(f"{done} runs came out of {runs}")
        return {"seconds": seconds}

    async def dispatch(self, samples: int, warm_up: int, variant: str) -> dict[str, Any]:  # noqa: ARG002 - it has but one
        probes = Probes()
        async with self._working(lambda _job: probes.arrived()):
            for _ in range(warm_up + samples):
                await probes.time(lambda: self._submitting[0].enqueue([WORK], [PROBE], [0]))
                await pause()
        return {"ms": probes.ms[warm_up:]}

    async def load(self, rate: float, seconds: float, variant: str) -> dict[str, Any]:
        probes = Probes()
        load = Load(rate, lambda count: self._enqueue(count, 1))

        def take(job: Job) -> None:
            if job.payload == PROBE:
                probes.arrived()
            else:
                load.done += 1

        size, driver = DRAINS[variant]
        async with self._working(take, size, driver), load.running():
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await probes.time(lambda: self._submitting[0].enqueue([WORK], [PROBE], [0]))
                await pause()
        return {"ms": probes.ms, "runs": load.done}

    async def _enqueue(self, count: int, lane: int) -> None:
        await self._submitting[lane].enqueue([WORK] * count, [BULK] * count, [0] * count)

    @asynccontextmanager
    async def _working(
        self, take: Callable[[Job], None], size: int = 100, driver: str = "connection"
    ) -> AsyncIterator[None]:
        """Run a worker while the block runs."""
        async with self._worker(take, driver) as worker, asyncio.TaskGroup() as group:
            group.create_task(worker.qm.run(batch_size=size))
            await asyncio.sleep(1)  # it does not tell when it listens
            yield
            worker.shutdown.set()

    @asynccontextmanager
    async def _worker(self, take: Callable[[Job], None], driver: str) -> AsyncIterator[PgQueuer]:
        """Make a worker, on the pool or on a new connection that nothing else listens on."""
        connection = await asyncpg.connect(self._url)
        worker = PgQueuer(AsyncpgPoolDriver(self._pool) if driver == "pool" else AsyncpgDriver(connection))

        @worker.entrypoint(WORK)
        async def work(job: Job) -> None:
            take(job)

        yield worker
        await connection.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PgqueuerSide]:
    """Connect and install pgqueuer's tables."""
    connections = [await asyncpg.connect(url) for _ in range(MOST_IN_FLIGHT)]
    await Queries(AsyncpgDriver(connections[0])).install()
    async with asyncpg.create_pool(url, min_size=MOST_IN_FLIGHT, max_size=10) as pool:
        yield PgqueuerSide(url, connections, pool)
