"""How fast leases go: dispatch of one run to an idle agent, and draining a full queue over eight sessions.

usage: python bench/leases.py [--against CHECKOUT] [--rounds N] [--runs N]

Real processes (a checkout's registry and queue service, from its own .venv), PostgreSQL 18 with fsync, agents
that speak the protocol and execute nothing. With --against, rounds of both checkouts alternate, so that
what else the machine does falls on both. Prints the median and the range over rounds of each figure.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import grpc

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
os.environ |= {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}

from towline.client import AsyncClient, Endpoints  # noqa: E402 - after the setting for gRPC
from towline.rpc.channel import open_channel  # noqa: E402 - likewise
from towline.v1 import jobs_pb2, leases_pb2, leases_pb2_grpc, queues_pb2, runs_pb2  # noqa: E402 - likewise
from towline_testing.postgres import EMBEDDED, PostgresServer, running_postgres  # noqa: E402 - made findable above

JOB: Final = "jobs/work/versions/v0"
QUEUE: Final = "queues/default"
SESSIONS: Final = 8
SLOTS: Final = 64
SINGLE_RUNS: Final = 300
WARM_UP: Final = 50
READY_S: Final = 60.0


@dataclass(frozen=True)
class Services:
    """A checkout's registry and queue service, running."""

    registry: str
    queue: str


@contextmanager
def services(checkout: Path, database_url: str, folder: Path) -> Iterator[Services]:
    """Run a checkout's services."""
    processes: list[subprocess.Popen[bytes]] = []
    addresses: dict[str, str] = {}
    try:
        for name in ("registry", "queue"):
            ready = folder / f"{name}.address"
            prefix = f"TOWLINE_{name.upper()}_"
            settings = {"DATABASE_URL": database_url, "LISTEN": "127.0.0.1:0", "ADDRESS_FILE": str(ready)}
            if name == "registry":
                settings |= {"BLOB_URL": (folder / "blobs").as_uri(), "SPOOL_DIR": str(folder / "spool")}
            else:
                settings["REGISTRY_ADDRESS"] = addresses["registry"]
            command = [checkout / ".venv/bin/python", "-m", f"towline_{name}"]
            environment = os.environ | {prefix + key: value for key, value in settings.items()}
            with (folder / f"{name}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, env=environment, cwd=checkout, stderr=log))
            until = time.monotonic() + READY_S
            while not ready.exists():
                if processes[-1].poll() is not None or time.monotonic() > until:
                    sys.exit((folder / f"{name}.log").read_text())
                time.sleep(0.05)
            addresses[name] = ready.read_text().strip()
        yield Services(addresses["registry"], addresses["queue"])
    finally:
        for process in processes:
            process.terminate()
            process.wait()


class Agent:
    """One session that takes every grant and reports success at once."""

    def __init__(self, call: Any, slots: int) -> None:
        self._call = call
        self._slots = slots
        self._beats = 0
        self._seen = 0

    async def beat(self, grants: Sequence[leases_pb2.Grant] = ()) -> None:
        """Accept and finish grants, and say that all slots are free."""
        self._beats += 1
        self._seen = max([self._seen, *(grant.grant_seq for grant in grants)])
        result = leases_pb2.AttemptResult(outcome=runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, exit_code=0)
        ids = [{"lease_id": grant.lease_id, "epoch": grant.epoch} for grant in grants]
        request = leases_pb2.StreamLeasesRequest(
            grant_replies=[leases_pb2.GrantReply(**one, accepted=True) for one in ids],
            finishes=[leases_pb2.Finish(**one, finish_id=str(uuid4()), result=result) for one in ids],
            heartbeat=leases_pb2.Heartbeat(
                seq=self._beats,
                capacity_gen=self._beats,
                free_slots=self._slots,
                grant_seq_seen=self._seen,
            ),
        )
        await self._call.write(request)

    async def hear(self) -> leases_pb2.StreamLeasesResponse:
        """Return what the queue service says next."""
        response = await self._call.read()
        if response is grpc.aio.EOF:
            sys.exit("the queue service ended the session")
        return response


@asynccontextmanager
async def agent(channel: grpc.aio.Channel, slots: int) -> AsyncIterator[Agent]:
    """Open a session."""
    call = leases_pb2_grpc.LeaseServiceStub(channel).StreamLeases()
    hello = leases_pb2.Hello(
        agent=f"agents/{uuid4().hex}",
        instance_id=str(uuid4()),
        boot_id="bench",
        queues=[QUEUE],
        capacity=leases_pb2.Capacity(slots=slots),
        hello_seq=1,
    )
    await call.write(leases_pb2.StreamLeasesRequest(hello=hello))
    await call.read()
    made = Agent(call, slots)
    await made.beat()
    try:
        yield made
    finally:
        call.cancel()


async def dispatch(client: AsyncClient, channel: grpc.aio.Channel) -> dict[str, float]:
    """Time single runs, one after the other, from the call of SubmitRun until the agent has the grant."""
    times = []
    async with agent(channel, 1) as one, asyncio.TaskGroup() as group:
        for _ in range(WARM_UP + SINGLE_RUNS):
            began = time.perf_counter()
            group.create_task(client.runs.submit(runs_pb2.RunSubmission(job=JOB, queue=QUEUE)))
            while not (grants := (await one.hear()).grants):
                pass
            times.append((time.perf_counter() - began) * 1000)
            await one.beat(grants)
            while not (await one.hear()).confirms:
                pass
    cuts = statistics.quantiles(times[WARM_UP:], n=100)
    return {"submit → grant, p50 [ms]": cuts[49], "submit → grant, p99 [ms]": cuts[98]}


async def drain(client: AsyncClient, channel: grpc.aio.Channel, runs: int) -> dict[str, float]:
    """Time the submission of many runs, and their way through all sessions to their committed results."""
    began = time.perf_counter()
    for _ in range(runs // 1000):
        await client.runs.submit_many([runs_pb2.RunSubmission(job=JOB, queue=QUEUE)] * 1000)
    submitted = time.perf_counter()
    left = runs // 1000 * 1000

    async def work() -> None:
        nonlocal left
        async with agent(channel, SLOTS) as one:
            while left > 0:
                response = await one.hear()
                left -= len(response.confirms)
                if response.grants:
                    await one.beat(response.grants)
        if left <= 0:
            raise _Drained

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(SESSIONS):
                group.create_task(work())
    except* _Drained:
        pass
    done = time.perf_counter()
    return {"submitted [runs/s]": runs / (submitted - began), "drained [runs/s]": runs / (done - submitted)}


class _Drained(Exception):
    """No run is left; ends the other sessions."""


async def measure(running: Services, runs: int) -> dict[str, float]:
    """Take all figures once."""
    async with (
        AsyncClient(Endpoints(registry=running.registry, queue=running.queue)) as client,
        open_channel(running.queue) as channel,
    ):
        image = jobs_pb2.JobSpec(
            image=jobs_pb2.ImageSource(reference="debian:12"), entrypoint=["true"], config_json="{}"
        )
        await client.jobs.create_version("jobs/work", image)
        await client.queues.create("default", queues_pb2.QueueSpec())
        return await dispatch(client, channel) | await drain(client, channel, runs)


def one_round(checkout: Path, postgres: PostgresServer, runs: int) -> dict[str, float]:
    """Run a checkout's services on a fresh database and take all figures."""
    name = f"bench_{uuid4().hex}"
    postgres.psql(f"CREATE DATABASE {name}")
    with (
        tempfile.TemporaryDirectory(prefix="towline-bench-") as folder,
        services(checkout, postgres.url(name), Path(folder)) as running,
    ):
        return asyncio.run(measure(running, runs))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, with its .venv made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=10_000, help="for draining; thousands")
    given = parser.parse_args()
    checkouts = {"this": ROOT} | ({"other": given.against.resolve()} if given.against else {})
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    with running_postgres(EMBEDDED, fsync=True) as postgres:
        for _ in range(given.rounds):
            for name, checkout in checkouts.items():
                rounds[name].append(one_round(checkout, postgres, given.runs))
    for figure in rounds["this"][0]:
        for name, taken in rounds.items():
            values = [one[figure] for one in taken]
            spread = f"({min(values):.1f} to {max(values):.1f})"
            print(f"{figure:28}{name:8}{statistics.median(values):10.1f}   {spread}")


if __name__ == "__main__":
    main()
