"""Many small blobs in one message, over gRPC, on real PostgreSQL and real files."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc
import pytest

from towline.errors import TowlineError
from towline.v1.artifacts_pb2 import (
    DownloadBlobsRequest,
    FindMissingBlobsRequest,
    UploadBlobsRequest,
    WholeBlob,
)
from towline_testing.registry import (
    Registry,
    digest_of,
    error_of,
    registry_service,
    registry_settings,
)

# As of large ones: it is about streams and files.
pytestmark = pytest.mark.one_postgres

MIB = 1024 * 1024


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        yield service


def contents(count: int, seed: int = 0) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randint(1, 3000)) for _ in range(count)]


def message(blobs: Iterable[bytes]) -> UploadBlobsRequest:
    return UploadBlobsRequest(blobs=[WholeBlob(digest=digest_of(data), data=data) for data in blobs])


async def send(registry: Registry, *messages: UploadBlobsRequest) -> list[int]:
    return [answer.stored_count async for answer in registry.blobs.UploadBlobs(iter(messages))]


async def refused(answers: AsyncIterator[object]) -> TowlineError:
    with pytest.raises(grpc.RpcError) as failure:
        async for _ in answers:
            pass
    return error_of(failure.value)


async def missing(registry: Registry, blobs: Iterable[bytes]) -> int:
    request = FindMissingBlobsRequest(digests=[digest_of(data) for data in blobs])
    return len((await registry.blobs.FindMissingBlobs(request)).missing_digests)


async def get(registry: Registry, digests: Iterable[str]) -> list[list[WholeBlob]]:
    call = registry.blobs.DownloadBlobs(DownloadBlobsRequest(digests=digests))
    return [list(answer.blobs) async for answer in call]


async def test_blobs_go_up_and_come_back_in_the_order_asked(registry: Registry) -> None:
    some = [b"", *contents(900)]
    assert await send(registry, message(some[:500]), message(some[500:]), message([])) == [500, 901, 901]
    assert await missing(registry, some) == 0
    asked = [digest_of(data) for data in [*reversed(some), b"", some[5]]]
    answers = await get(registry, asked)
    assert [blob.digest for answer in answers for blob in answer] == asked
    assert all(digest_of(blob.data) == blob.digest for answer in answers for blob in answer)
    assert await registry.download(digest_of(some[7])) == some[7]
    assert await get(registry, []) == []


async def test_what_comes_twice_is_kept_once(registry: Registry, tmp_path: Path) -> None:
    some = contents(50)
    async with asyncio.TaskGroup() as group:
        for turn in range(4):
            order = random.Random(turn).sample(some, len(some))
            group.create_task(send(registry, message([*order, order[0]])))
    assert await missing(registry, some) == 0
    assert len([path for path in (tmp_path / "blobs/blobs").rglob("*") if path.is_file()]) == len(some)


async def test_answers_fit_a_message(registry: Registry) -> None:
    large = [random.Random(n).randbytes(MIB - n) for n in range(7)]
    for data in large:
        await registry.upload(data)
    answers = await get(registry, map(digest_of, large))
    assert [len(answer) for answer in answers] == [2, 2, 2, 1]


async def test_other_bytes_than_announced_end_the_stream(registry: Registry) -> None:
    first, second = contents(10, 1), contents(10, 2)
    wrong = message(second)
    wrong.blobs[7].data = b"something else"
    call = registry.blobs.UploadBlobs(iter([message(first), wrong, message(contents(3, 3))]))
    answers: list[int] = []
    with pytest.raises(grpc.RpcError) as failure:
        async for answer in call:
            answers += [answer.stored_count]
    error = error_of(failure.value)
    assert answers == [10]
    assert (error.reason, error.metadata["expected"]) == ("DIGEST_MISMATCH", wrong.blobs[7].digest)
    assert await missing(registry, first) == 0
    assert await missing(registry, [*second, *contents(3, 3)]) == 13, "nothing of a wrong message is kept"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (message(bytes([n % 256, n // 256]) for n in range(1001)), "blobs"),
        (message([bytes(MIB), b"1" * MIB, b"2"]), "blobs"),
        (message([bytes(MIB + 1)]), "blobs.data"),
        (UploadBlobsRequest(blobs=[WholeBlob(digest="md5:0", data=b"")]), "blobs.digest"),
    ],
)
async def test_messages_that_are_refused(registry: Registry, wrong: UploadBlobsRequest, field: str) -> None:
    error = await refused(registry.blobs.UploadBlobs(iter([wrong])))
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", field)


async def test_requests_that_are_refused(registry: Registry) -> None:
    await registry.upload(bytes(MIB + 1))
    for digests in (["sha256:0"], [digest_of(b"")] * 1001, [digest_of(bytes(MIB + 1))]):
        error = await refused(registry.blobs.DownloadBlobs(DownloadBlobsRequest(digests=digests)))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "digests")
    await send(registry, message([b"there"]))
    asked = [digest_of(b"there"), digest_of(b"absent")]
    error = await refused(registry.blobs.DownloadBlobs(DownloadBlobsRequest(digests=asked)))
    assert (error.reason, error.metadata["digest"]) == ("BLOB_NOT_FOUND", asked[1])
