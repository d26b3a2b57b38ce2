"""Slow readers and fast writers of logs: what they cost the service, as a process of its own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from towline.rpc.channel import MAX_CHUNK_BYTES, open_channel
from towline.v1 import jobs_pb2, leases_pb2, logs_pb2
from towline_testing.fake_agent import FakeAgent
from towline_testing.lease_world import JOB, queue_spec
from towline_testing.queue import QueueService
from towline_testing.registry import registry_service, registry_settings
from towline_testing.waiting import eventually

# It is the service's memory that is looked at.
pytestmark = pytest.mark.one_postgres

LOG_MIB = 20
IDLE_READERS = 30
WRITERS = 6
# What idle readers have not read (600 MiB), or what writers are ahead of the disk, would not fit.
MOST_GROWTH_MIB = 224


@pytest.fixture
async def registry_address(database_url: str, tmp_path: Path) -> AsyncIterator[str]:
    async with registry_service(registry_settings(database_url, tmp_path)) as registry:
        image = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference="debian:12"), entrypoint=["true"])
        await registry.create("jobs/work", image)
        yield registry.address


@pytest.fixture
def process(database_url: str, registry_address: str, tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A queue service: its process id and its address."""
    file = tmp_path / "address"
    settings = {
        "LISTEN": "127.0.0.1:0",
        "DATABASE_URL": database_url,
        "ADDRESS_FILE": str(file),
        "REGISTRY_ADDRESS": registry_address,
    }
    service = subprocess.Popen(
        [sys.executable, "-m", "towline_queue"],
        env=os.environ | {f"TOWLINE_QUEUE_{name}": value for name, value in settings.items()},
        stdin=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: file.exists() or service.poll() is not None, within=30)
        assert service.poll() is None
        yield service.pid, file.read_text()
    finally:
        service.kill()
        service.wait()


def peak_mib(pid: int) -> int:
    """Return the most memory that a process has had since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@asynccontextmanager
async def client(address: str) -> AsyncIterator[QueueService]:
    async with open_channel(address) as channel:
        yield QueueService(address, channel)


async def write(service: QueueService, grant: leases_pb2.Grant, mib: int) -> None:
    """Append to a log as fast as the service takes it."""
    call = service.logs.AppendLogs()

    async def send() -> None:
        for number in range(mib):
            await call.write(
                logs_pb2.AppendLogsRequest(
                    run=grant.spec.run,
                    epoch=grant.epoch,
                    stream=logs_pb2.LOG_STREAM_OUTPUT,
                    offset=number * MAX_CHUNK_BYTES,
                    data=b"x" * MAX_CHUNK_BYTES,
                )
            )
        await call.done_writing()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        answers = [answer.committed_offset async for answer in call]
    assert answers[-1] == mib * MAX_CHUNK_BYTES


async def test_readers_that_take_nothing_and_many_writers_cost_bounded_memory(
    process: tuple[int, str],
) -> None:
    pid, address = process
    agent = FakeAgent(slots=WRITERS)
    async with client(address) as service, client(address) as slow:
        await service.create_queue(spec=queue_spec())
        async with agent.connected(service.channel, beating=True) as session:
            await session.beat()
            grants = []
            for _ in range(WRITERS):
                await service.submit(JOB)
                grants.append(await session.next_accepted())
            request = logs_pb2.TailLogsRequest(
                run=grants[0].spec.run, stream=logs_pb2.LOG_STREAM_OUTPUT, follow=True
            )
            idle = [slow.logs.TailLogs(request) for _ in range(IDLE_READERS)]
            forget_peak(pid)
            before = peak_mib(pid)
            async with asyncio.TaskGroup() as tasks:
                for grant in grants:
                    tasks.create_task(write(service, grant, LOG_MIB))
            request.follow = False
            read = [len(part.data) async for part in service.logs.TailLogs(request)]
            assert sum(read) == LOG_MIB * MAX_CHUNK_BYTES
            assert peak_mib(pid) - before <= MOST_GROWTH_MIB
            for call in idle:
                call.cancel()
