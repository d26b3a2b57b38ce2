"""The real registry service, in the test's own event loop or as a process, and clients of it."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc

from towline.errors import TowlineError
from towline.rpc.channel import open_channel
from towline.rpc.status import to_error
from towline.v1 import artifacts_pb2, artifacts_pb2_grpc, jobs_pb2, jobs_pb2_grpc
from towline_registry.__main__ import running
from towline_registry.settings import RegistrySettings
from towline_testing.waiting import eventually

CHUNK_BYTES = 1024 * 1024


def new_id() -> str:
    return str(uuid4())


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Registry:
    """A running registry and what a client needs to call it."""

    address: str
    channel: grpc.aio.Channel

    @property
    def jobs(self) -> "jobs_pb2_grpc.JobServiceAsyncStub":
        return jobs_pb2_grpc.JobServiceStub(self.channel)

    @property
    def artifacts(self) -> "artifacts_pb2_grpc.ArtifactServiceAsyncStub":
        return artifacts_pb2_grpc.ArtifactServiceStub(self.channel)

    @property
    def blobs(self) -> "artifacts_pb2_grpc.BlobServiceAsyncStub":
        return artifacts_pb2_grpc.BlobServiceStub(self.channel)

    async def upload(self, data: bytes, **fields: object) -> artifacts_pb2.UploadBlobResponse:
        """Upload bytes in one stream; `fields` replace those of the header."""
        header = upload_header(data, **fields)
        return await self.blobs.UploadBlob(upload_messages(header, data[header.offset :]))

    async def download(self, digest: str, offset: int = 0) -> bytes:
        request = artifacts_pb2.DownloadBlobRequest(digest=digest, offset=offset)
        return b"".join([message.data async for message in self.blobs.DownloadBlob(request)])

    async def create(
        self, job: str, spec: jobs_pb2.JobSpec, **fields: object
    ) -> jobs_pb2.CreateJobVersionResponse:
        fields = {"request_id": new_id()} | fields
        return await self.jobs.CreateJobVersion(
            jobs_pb2.CreateJobVersionRequest(job=job, spec=spec, **fields)
        )


def upload_header(data: bytes, **fields: object) -> artifacts_pb2.UploadHeader:
    values = {"upload_id": new_id(), "digest": digest_of(data), "size_bytes": len(data)} | fields
    return artifacts_pb2.UploadHeader(**values)


def upload_messages(
    header: artifacts_pb2.UploadHeader, data: bytes, chunk: int = CHUNK_BYTES
) -> Iterator[artifacts_pb2.UploadBlobRequest]:
    yield artifacts_pb2.UploadBlobRequest(header=header, data=data[:chunk])
    for start in range(chunk, len(data), chunk):
        yield artifacts_pb2.UploadBlobRequest(data=data[start : start + chunk])


async def refused(call: Awaitable[object]) -> TowlineError:
    """Await a call that must fail, and give the error."""
    try:
        answer = await call
    except grpc.RpcError as failure:
        return error_of(failure)
    raise AssertionError(f"it was answered: {answer}")


def error_of(failure: grpc.RpcError) -> TowlineError:
    """Read what a client reads: the error behind a failed call."""
    return to_error(failure, peer="registry")


def registry_settings(database_url: str, folder: Path, **values: object) -> RegistrySettings:
    defaults = {
        "listen": "127.0.0.1:0",
        "database_url": database_url,
        "blob_url": (folder / "blobs").as_uri(),
        "spool_dir": folder / "spool",
        "stop_grace_s": 1.0,
    }
    return RegistrySettings(**(defaults | values))


@asynccontextmanager
async def registry_service(settings: RegistrySettings) -> AsyncIterator[Registry]:
    async with running(settings) as address, open_channel(address) as channel:
        yield Registry(address, channel)


@dataclass(frozen=True)
class RegistryProcess:
    """A registry that was started as an operator starts it."""

    process: subprocess.Popen[str]
    address: str

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> tuple[int, str]:
        """End it as an operator does; returns exit status and standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


def start_process(
    database_url: str, folder: Path, before: Iterable[str] = (), **settings: str
) -> RegistryProcess:
    """Start a registry and wait until it serves; `before` stands before its command line."""
    address = folder / "address"
    address.unlink(missing_ok=True)
    process = spawn(
        before,
        **{
            "DATABASE_URL": database_url,
            "LISTEN": "127.0.0.1:0",
            "BLOB_URL": (folder / "blobs").as_uri(),
            "SPOOL_DIR": str(folder / "spool"),
            "ADDRESS_FILE": str(address),
        }
        | settings,
    )
    eventually(lambda: address.exists() or process.poll() is not None, within=30)
    assert process.poll() is None, process.communicate()[1]
    return RegistryProcess(process, address.read_text())


def spawn(before: Iterable[str] = (), **settings: str) -> subprocess.Popen[str]:
    """Start `python -m towline_registry` with TOWLINE_REGISTRY_… settings."""
    return subprocess.Popen(
        [*before, sys.executable, "-m", "towline_registry"],
        env=os.environ | {f"TOWLINE_REGISTRY_{name}": value for name, value in settings.items()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
