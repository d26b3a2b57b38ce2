"""The registry as an operator runs it: started, stopped, killed, and without what it needs."""

import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from towline.rpc.channel import open_channel
from towline.v1.artifacts_pb2 import DownloadBlobRequest, GetUploadStatusRequest, UploadBlobRequest
from towline.v1.jobs_pb2 import GetJobVersionRequest, ImageSource, JobSpec
from towline_testing.postgres import PostgresServer
from towline_testing.registry import (
    Registry,
    RegistryProcess,
    digest_of,
    error_of,
    registry_service,
    registry_settings,
    spawn,
    start_process,
    upload_header,
    upload_messages,
)
from towline_testing.waiting import eventually_async

# Processes, signals, disks and object stores are the same on each version.
pytestmark = pytest.mark.one_postgres

MIB = 1024 * 1024
# Ours has the time first; gRPC's own, which it writes when it cannot listen, a letter and the date.
LOG_LINE = re.compile(r"[0-9:]{8} INFO |E[0-9]{4} ")


def end(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Wait for the end of a process; give its status and its lines on standard error."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.splitlines()


def memory_mib(process: RegistryProcess) -> int:
    """Most memory the process ever had."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


@pytest.fixture
def complete(tmp_path: Path) -> dict[str, str]:
    """Settings that would work, had the database a server."""
    return {
        "LISTEN": "127.0.0.1:0",
        "DATABASE_URL": "postgresql://127.0.0.1:9/none",
        "BLOB_URL": (tmp_path / "blobs").as_uri(),
        "SPOOL_DIR": str(tmp_path / "spool"),
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"DATABASE_URL": None}, "TOWLINE_REGISTRY_DATABASE_URL: is not set"),
        ({"DATABASE_URL": "no url"}, "DATABASE_URL: this is no URL"),
        ({}, "PostgreSQL (127.0.0.1) cannot be reached"),
        ({"DATABASE_URL": "postgresql://postgres@/none?host=/nowhere"}, "PostgreSQL"),
        ({"BLOB_URL": "ftp://host/blobs"}, "BLOB_URL: 'ftp://host/blobs' is not taken"),
        ({"BLOB_URL": "file:///dev/null/blobs"}, "BLOB_URL: file:///dev/null/blobs cannot be opened"),
        ({"SPOOL_DIR": "/dev/null/spool"}, "SPOOL_DIR: the folder /dev/null/spool cannot be made"),
        ({"SPOOL_DAYS": "soon"}, "TOWLINE_REGISTRY_SPOOL_DAYS"),
        ({"LOG_LEVEL": "LOUD"}, "TOWLINE_REGISTRY_LOG_LEVEL"),
    ],
)
def test_what_prevents_a_start_is_one_line(
    complete: dict[str, str], changes: dict[str, str | None], said: str
) -> None:
    settings = {name: value for name, value in (complete | changes).items() if value is not None}
    status, lines = end(spawn(**settings))
    assert status == 1
    [line] = lines
    assert said in line


def test_database_that_is_not_there_is_one_line(complete: dict[str, str], postgres: PostgresServer) -> None:
    for url in (postgres.url("none"), postgres.url().replace("postgres@", "nobody@")):
        status, lines = end(spawn(**complete | {"DATABASE_URL": url}))
        assert status == 1
        [line] = lines
        assert "does not exist" in line


def test_address_that_cannot_be_listened_on_is_one_line(complete: dict[str, str], database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        in_use = f"127.0.0.1:{taken.getsockname()[1]}"
        for address in (in_use, "256.0.0.1:1"):
            status, lines = end(spawn(**complete | {"DATABASE_URL": database_url, "LISTEN": address}))
            assert status == 1
            [line] = [line for line in lines if not LOG_LINE.match(line)]
            assert f"cannot listen on {address}" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_end_it_in_order(database_url: str, tmp_path: Path, number: int) -> None:
    process = start_process(database_url, tmp_path, STOP_GRACE_S="0.1")
    async with open_channel(process.address) as channel:
        registry = Registry(process.address, channel)
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="towline.v1.BlobService")
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        data = random.Random(0).randbytes(3 * MIB)
        header = upload_header(data)
        call = registry.blobs.UploadBlob()
        await call.write(UploadBlobRequest(header=header, data=data[:MIB]))
        await eventually_async(lambda: _stands_at(registry, header, MIB))
        process.process.send_signal(number)
        status, lines = end(process.process)
        with pytest.raises(grpc.RpcError):
            await call
    assert status == 0, lines
    assert "Traceback" not in "\n".join(lines)

    again = start_process(database_url, tmp_path)
    async with open_channel(again.address) as channel:
        registry = Registry(again.address, channel)
        header.offset = MIB
        assert (await registry.blobs.UploadBlob(upload_messages(header, data[MIB:]))).complete
    assert again.stop()[0] == 0


async def _stands_at(registry: Registry, header: object, size: int) -> bool:
    request = GetUploadStatusRequest(upload_id=header.upload_id, digest=header.digest)
    return (await registry.blobs.GetUploadStatus(request)).committed_size == size


async def test_upload_survives_kill_9(database_url: str, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(8 * MIB + 5)
    header = upload_header(data)
    process = start_process(database_url, tmp_path)
    async with open_channel(process.address) as channel:
        registry = Registry(process.address, channel)
        call = registry.blobs.UploadBlob()
        for message in list(upload_messages(header, data))[:5]:
            await call.write(message)
        await eventually_async(lambda: _stands_at(registry, header, 5 * MIB))
        process.kill()
        with pytest.raises(grpc.RpcError):
            await call

    process = start_process(database_url, tmp_path)
    async with open_channel(process.address) as channel:
        registry = Registry(process.address, channel)
        request = GetUploadStatusRequest(upload_id=header.upload_id, digest=header.digest)
        header.offset = (await registry.blobs.GetUploadStatus(request)).committed_size
        assert header.offset == 5 * MIB
        assert (await registry.blobs.UploadBlob(upload_messages(header, data[header.offset :]))).complete
        assert await registry.download(header.digest) == data
    assert process.stop()[0] == 0


async def test_stop_while_the_object_store_writes_is_orderly(database_url: str, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(96 * MIB)
    header = upload_header(data)
    # From another file system, for within one there is nothing to write.
    spool = tempfile.mkdtemp(dir="/dev/shm")
    process = start_process(database_url, tmp_path, STOP_GRACE_S="0", SPOOL_DIR=spool)
    async with open_channel(process.address) as channel:
        call = Registry(process.address, channel).blobs.UploadBlob(upload_messages(header, data))

        async def writing() -> bool:
            return any("#" in file.name for file in (tmp_path / "blobs").rglob("*"))

        await eventually_async(writing)
        process.process.send_signal(signal.SIGTERM)
        status, lines = end(process.process)
        assert status == 0, lines
        call.cancel()
    shutil.rmtree(spool)


async def test_memory_stays_flat(database_url: str, tmp_path: Path) -> None:
    size = 512 * MIB
    block = random.Random(0).randbytes(MIB)
    process = start_process(database_url, tmp_path)
    async with open_channel(process.address) as channel:
        registry = Registry(process.address, channel)
        await registry.upload(b"warm")
        before = memory_mib(process)
        header = upload_header(block * 512)

        def messages() -> object:
            for n in range(512):
                yield UploadBlobRequest(header=header if n == 0 else None, data=block)

        assert (await registry.blobs.UploadBlob(messages())).complete
        received = 0
        async for message in registry.blobs.DownloadBlob(DownloadBlobRequest(digest=header.digest)):
            received += len(message.data)
        assert received == size
        # A reader that pauses must not make the registry read ahead.
        paused = [registry.blobs.DownloadBlob(DownloadBlobRequest(digest=header.digest)) for _ in range(4)]
        for call in paused:
            await call.read()
        grown = memory_mib(process) - before
        for call in paused:
            call.cancel()
    assert grown < 300, f"{grown} MiB more than before, for a blob of 512 MiB"
    assert process.stop()[0] == 0


async def test_full_disk_keeps_what_came(database_url: str, tmp_path: Path) -> None:
    # A limit on the size of files stands for a full disk: the write fails half way.
    data = random.Random(0).randbytes(4 * MIB)
    process = start_process(database_url, tmp_path)
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (2 * MIB + 100, resource.RLIM_INFINITY))
    async with open_channel(process.address) as channel:
        registry = Registry(process.address, channel)
        header = upload_header(data)
        with pytest.raises(grpc.RpcError) as failure:
            await registry.blobs.UploadBlob(upload_messages(header, data))
        assert error_of(failure.value).reason == "SPOOL_FULL"
        assert await _stands_at(registry, header, 2 * MIB + 100)
        resource.prlimit(
            process.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        header.offset = 2 * MIB + 100
        assert (await registry.blobs.UploadBlob(upload_messages(header, data[header.offset :]))).complete
        assert await registry.download(digest_of(data)) == data
    assert process.stop()[0] == 0


async def test_postgres_may_go_and_come_back(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    data = random.Random(0).randbytes(2 * MIB)
    header = upload_header(data)
    spec = JobSpec(image=ImageSource(reference="alpine:3"))
    async with registry_service(registry_settings(database_url, tmp_path)) as registry:
        await registry.create("jobs/before", spec)
        call = registry.blobs.UploadBlob()
        first, second = upload_messages(header, data)
        await call.write(first)
        await eventually_async(lambda: _stands_at(registry, header, MIB))
        for mode in ("fast", "immediate"):
            postgres.stop(mode)
            try:
                for refused in (
                    registry.create("jobs/during", spec),
                    registry.jobs.GetJobVersion(GetJobVersionRequest(name="jobs/before/versions/v0")),
                    registry.upload(b"x"),
                    registry.download(header.digest),
                ):
                    with pytest.raises(grpc.RpcError) as failure:
                        await refused
                    error = error_of(failure.value)
                    assert (failure.value.code(), error.reason) == (
                        grpc.StatusCode.UNAVAILABLE,
                        "DATABASE_UNAVAILABLE",
                    )
                if mode == "fast":
                    # The bytes come through, the record does not: nothing is lost, nothing is claimed.
                    await call.write(second)
                    await call.done_writing()
                    with pytest.raises(grpc.RpcError) as failure:
                        await call
                    assert error_of(failure.value).reason == "DATABASE_UNAVAILABLE"
            finally:
                postgres.start()
            await registry.create("jobs/after", spec)
        header.offset = len(data)
        assert (await registry.blobs.UploadBlob(upload_messages(header, b""))).complete
        assert await registry.download(header.digest) == data
        name = GetJobVersionRequest(name="jobs/before/versions/v0")
        assert (await registry.jobs.GetJobVersion(name)).job_version.spec.image == spec.image
