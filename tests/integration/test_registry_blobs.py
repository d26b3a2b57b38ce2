"""BlobService over gRPC, on real PostgreSQL and real files."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import grpc
import pytest

from towline.v1.artifacts_pb2 import (
    DownloadBlobRequest,
    FindMissingBlobsRequest,
    GetUploadStatusRequest,
    GetUploadStatusResponse,
    UploadBlobRequest,
    UploadHeader,
)
from towline_registry.blobs.spool import Spool
from towline_registry.core.uploads import UploadKey
from towline_testing.registry import (
    CHUNK_BYTES,
    Registry,
    digest_of,
    error_of,
    new_id,
    refused,
    registry_service,
    registry_settings,
    upload_header,
    upload_messages,
)
from towline_testing.waiting import eventually_async

# It is about streams and files; statements about blobs run on each version elsewhere.
pytestmark = pytest.mark.one_postgres

MIB = 1024 * 1024


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        yield service


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def status_of(registry: Registry, header: UploadHeader) -> GetUploadStatusResponse:
    request = GetUploadStatusRequest(upload_id=header.upload_id, digest=header.digest)
    return await registry.blobs.GetUploadStatus(request)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 9 * MIB + 17])
async def test_bytes_come_back(registry: Registry, spool: Path, tmp_path: Path, size: int) -> None:
    data = content(size)
    answer = await registry.upload(data)
    assert (answer.complete, answer.committed_size) == (True, size)
    assert await registry.download(digest_of(data)) == data
    digits = digest_of(data).removeprefix("sha256:")
    [kept] = (tmp_path / "blobs" / "blobs" / "sha256" / digits[:2]).glob(f"{digits[2:]}.*")
    assert kept.read_bytes() == data
    assert files_in(spool) == []


async def test_download_starts_anywhere(registry: Registry) -> None:
    data = content(9 * MIB + 17)
    await registry.upload(data)
    for offset in (1, MIB, 8 * MIB - 1, 8 * MIB + 5, len(data) - 1, len(data)):
        request = DownloadBlobRequest(digest=digest_of(data), offset=offset)
        messages = [message async for message in registry.blobs.DownloadBlob(request)]
        assert b"".join(message.data for message in messages) == data[offset:]
        assert [message.size_bytes for message in messages] == [len(data)] + [0] * (len(messages) - 1)
        assert all(len(message.data) <= MIB for message in messages)
    for offset in (-1, len(data) + 1):
        error = await refused(registry.download(digest_of(data), offset))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "offset")


async def test_unknown_blob_is_not_found(registry: Registry) -> None:
    digest = digest_of(b"never sent")
    error = await refused(registry.download(digest))
    assert (error.reason, error.metadata["digest"]) == ("BLOB_NOT_FOUND", digest)
    for bad in ("", "sha256:", digest.upper(), digest[:-1], "../../etc/passwd"):
        error = await refused(registry.download(bad))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "digest")


async def test_bytes_lost_behind_the_registrys_back_are_reported(registry: Registry, tmp_path: Path) -> None:
    data = content(100)
    await registry.upload(data)
    [file] = [path for path in (tmp_path / "blobs/blobs").rglob("*") if path.is_file()]
    file.write_bytes(data[:50])
    assert (await refused(registry.download(digest_of(data)))).reason == "BLOB_LOST"
    file.unlink()
    assert (await refused(registry.download(digest_of(data)))).reason == "BLOB_LOST"


async def test_missing_blobs_in_the_order_asked(registry: Registry) -> None:
    present = [content(10, seed) for seed in range(3)]
    for data in present:
        await registry.upload(data)
    absent = [digest_of(str(n).encode()) for n in range(9_997)]
    asked = [absent[0], *map(digest_of, present), *absent[1:]]
    answer = await registry.blobs.FindMissingBlobs(FindMissingBlobsRequest(digests=asked))
    assert list(answer.missing_digests) == absent
    assert not (await registry.blobs.FindMissingBlobs(FindMissingBlobsRequest())).missing_digests
    for bad in ([*asked, digest_of(b"x")], ["md5:00"]):
        error = await refused(registry.blobs.FindMissingBlobs(FindMissingBlobsRequest(digests=bad)))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "digests")


async def test_upload_goes_on_where_it_was_cut_off(registry: Registry, spool: Path) -> None:
    data = content(5 * MIB)
    header = upload_header(data)
    kept = 2 * MIB + 100
    answer = await registry.blobs.UploadBlob(upload_messages(header, data[:kept]))
    assert (answer.complete, answer.committed_size) == (False, kept)
    assert await status_of(registry, header) == GetUploadStatusResponse(committed_size=kept)
    missing = await registry.blobs.FindMissingBlobs(FindMissingBlobsRequest(digests=[header.digest]))
    assert list(missing.missing_digests) == [header.digest]

    for wrong in (0, kept - 1, kept + 1, len(data)):
        header.offset = wrong
        error = await refused(registry.blobs.UploadBlob(upload_messages(header, data[wrong:])))
        assert error.reason == "UPLOAD_OFFSET_MISMATCH"
        assert error.metadata["committed_size"] == str(kept)

    header.offset = kept
    answer = await registry.blobs.UploadBlob(upload_messages(header, data[kept:]))
    assert (answer.complete, answer.committed_size) == (True, len(data))
    assert await registry.download(header.digest) == data
    assert await status_of(registry, header) == GetUploadStatusResponse(
        committed_size=len(data), complete=True
    )
    assert files_in(spool) == []


async def test_unknown_upload_stands_at_the_start(registry: Registry) -> None:
    assert await status_of(registry, upload_header(b"x")) == GetUploadStatusResponse()


async def test_what_came_before_a_disconnect_is_kept(registry: Registry) -> None:
    data = content(6 * MIB)
    header = upload_header(data)
    call = registry.blobs.UploadBlob()
    for message in list(upload_messages(header, data))[:3]:
        await call.write(message)

    async def three_kept() -> bool:
        return (await status_of(registry, header)).committed_size == 3 * CHUNK_BYTES

    await eventually_async(three_kept)
    call.cancel()

    async def resumed() -> bool:
        header.offset = (await status_of(registry, header)).committed_size
        try:
            return (await registry.blobs.UploadBlob(upload_messages(header, data[header.offset :]))).complete
        except grpc.RpcError as failure:  # until the registry has noticed that the first stream is gone
            assert error_of(failure).reason == "UPLOAD_IN_PROGRESS"
            return False

    await eventually_async(resumed)
    assert header.offset == 3 * CHUNK_BYTES
    assert await registry.download(header.digest) == data


async def test_second_stream_of_an_upload_is_refused(registry: Registry) -> None:
    data = content(3 * MIB)
    header = upload_header(data)
    first = registry.blobs.UploadBlob()
    messages = list(upload_messages(header, data))
    await first.write(messages[0])

    async def one_kept() -> bool:
        return (await status_of(registry, header)).committed_size == CHUNK_BYTES

    await eventually_async(one_kept)
    error = await refused(registry.blobs.UploadBlob(iter(messages)))
    assert (error.reason, error.metadata["field"]) == ("UPLOAD_IN_PROGRESS", "header.upload_id")
    # The first stream never noticed.
    for message in messages[1:]:
        await first.write(message)
    await first.done_writing()
    assert (await first).complete


async def test_other_bytes_are_dropped(registry: Registry, spool: Path) -> None:
    data = content(2 * MIB)
    header = upload_header(data)
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    error = await refused(registry.blobs.UploadBlob(upload_messages(header, wrong)))
    assert error.reason == "DIGEST_MISMATCH"
    assert (error.metadata["expected"], error.metadata["actual"]) == (header.digest, digest_of(wrong))
    assert await status_of(registry, header) == GetUploadStatusResponse()
    assert files_in(spool) == []
    assert (await registry.blobs.UploadBlob(upload_messages(header, data))).complete
    assert (await refused(registry.download(digest_of(wrong)))).reason == "BLOB_NOT_FOUND"


async def test_too_many_bytes_are_dropped(registry: Registry, spool: Path) -> None:
    data = content(MIB)
    error = await refused(registry.upload(data, size_bytes=len(data) - 1))
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "data")
    assert files_in(spool) == []


async def test_present_blob_is_answered_at_once(registry: Registry, spool: Path) -> None:
    data = content(MIB)
    await registry.upload(data)

    sent = 0

    async def endless() -> AsyncIterator[UploadBlobRequest]:
        nonlocal sent
        yield UploadBlobRequest(header=upload_header(data, offset=5, size_bytes=10), data=b"whatever")
        while True:
            sent += 1
            yield UploadBlobRequest(data=data)

    answer = await registry.blobs.UploadBlob(endless())
    assert (answer.complete, answer.committed_size) == (True, len(data))
    assert sent < 200, "the stream must end with the answer"
    assert files_in(spool) == []


async def test_upload_that_another_one_overtook_leaves_nothing(registry: Registry, spool: Path) -> None:
    data = content(2 * MIB)
    header = upload_header(data)
    await registry.blobs.UploadBlob(upload_messages(header, data[:100]))
    assert len(files_in(spool)) == 1
    await registry.upload(data)
    header.offset = 100
    assert (await registry.blobs.UploadBlob(upload_messages(header, data[100:]))).complete
    assert files_in(spool) == []


async def test_same_bytes_at_once_are_harmless(registry: Registry, spool: Path) -> None:
    data = content(3 * MIB)
    async with asyncio.TaskGroup() as group:
        uploads = [group.create_task(registry.upload(data)) for _ in range(10)]
    assert all(upload.result().complete for upload in uploads)
    assert await registry.download(digest_of(data)) == data
    assert files_in(spool) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"upload_id": ""}, "header.upload_id"),
        ({"upload_id": "../../etc/passwd"}, "header.upload_id"),
        ({"digest": "sha256:ab"}, "header.digest"),
        ({"size_bytes": -1}, "header.size_bytes"),
        ({"size_bytes": 1024**4 + 1}, "header.size_bytes"),
        ({"offset": -1}, "header.offset"),
        ({"offset": 11}, "header.offset"),
    ],
)
async def test_wrong_header_is_refused(
    registry: Registry, spool: Path, changes: dict[str, object], field: str
) -> None:
    header = upload_header(b"0123456789", **changes)
    error = await refused(registry.blobs.UploadBlob(iter([UploadBlobRequest(header=header)])))
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", field)
    assert files_in(spool) == []


async def test_wrong_messages_are_refused(registry: Registry) -> None:
    header = upload_header(content(4 * MIB))
    for messages, field in (
        ([], "header"),
        ([UploadBlobRequest(data=b"x")], "header"),
        ([UploadBlobRequest(header=header), UploadBlobRequest(header=header)], "header"),
        ([UploadBlobRequest(header=header), UploadBlobRequest(data=bytes(MIB + 1))], "data"),
    ):
        error = await refused(registry.blobs.UploadBlob(iter(messages)))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", field)
    request = GetUploadStatusRequest(upload_id="x", digest=header.digest)
    assert (await refused(registry.blobs.GetUploadStatus(request))).metadata["field"] == "upload_id"


async def test_message_over_the_limit_is_refused(registry: Registry) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(registry.address, options=options) as channel:
        unlimited = Registry(registry.address, channel)
        message = UploadBlobRequest(header=upload_header(b""), data=bytes(17 * MIB))
        error = await refused(unlimited.blobs.UploadBlob(iter([message])))
    assert error.reason == "MESSAGE_TOO_LARGE"
    assert (await registry.upload(b"still there")).complete


async def test_uploads_nobody_went_on_with_are_dropped_at_start(database_url: str, tmp_path: Path) -> None:
    settings = registry_settings(database_url, tmp_path, spool_days=7)
    old, young = upload_header(content(MIB, 1)), upload_header(content(MIB, 2))
    async with registry_service(settings) as registry:
        for header in (old, young):
            await registry.blobs.UploadBlob(upload_messages(header, b"12345"))
    for file in settings.spool_dir.iterdir():
        age = timedelta(days=8 if str(UUID(old.upload_id)) in file.name else 6)
        moment = file.stat().st_mtime - age.total_seconds()
        os.utime(file, (moment, moment))
    async with registry_service(settings) as registry:
        assert (await status_of(registry, old)).committed_size == 0
        assert (await status_of(registry, young)).committed_size == 5


def test_upload_in_progress_is_never_abandoned(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    key = UploadKey.checked(new_id(), digest_of(b"x"))
    with spool.holding(key) as spooled:
        spooled.append(b"abc")
        os.utime(spooled.path, (0, 0))
        assert spool.drop_abandoned(timedelta(days=1)) == 0
    os.utime(spooled.path, (0, 0))
    assert spool.drop_abandoned(timedelta(days=1)) == 1
