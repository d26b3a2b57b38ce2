"""What every BlobStore does: a local folder, memory, and S3 over HTTP."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import MemoryStore, S3Store

from towline.errors import Internal, InvalidArgument, Unavailable
from towline_registry.blobs.store import BlobStore, FolderBlobs, ObjectBlobs, open_blob_store
from towline_registry.core.digests import Digest, of

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_environment(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator sets for a store that speaks S3."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["folder", "memory", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    match request.param:
        case "folder":
            yield await open_blob_store((tmp_path / "blöbs and more").as_uri())
        case "memory":
            yield ObjectBlobs(MemoryStore(), "memory:///")
        case "s3":
            request.getfixturevalue("s3_environment")
            boto3.client("s3", endpoint_url=request.getfixturevalue("s3_endpoint")).create_bucket(
                Bucket="towline"
            )
            yield await open_blob_store("s3://towline/some/prefix")


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def put(store: BlobStore, folder: Path, data: bytes) -> Digest:
    source = folder / f"source-{hashlib.md5(data).hexdigest()}"
    source.write_bytes(data)
    await store.put(of(data), source, len(data))
    source.unlink()
    return of(data)


async def read(store: BlobStore, digest: Digest, start: int, end: int) -> list[bytes]:
    return [piece async for piece in store.read(digest, start=start, end=end)]


@pytest.mark.parametrize("size", [0, 1, MIB, 8 * MIB, 21 * MIB + 3])
async def test_bytes_come_back(store: BlobStore, tmp_path: Path, size: int) -> None:
    data = content(size)
    digest = await put(store, tmp_path, data)
    pieces = await read(store, digest, 0, size)
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= MIB for piece in pieces)


async def test_ranges(store: BlobStore, tmp_path: Path) -> None:
    data = content(9 * MIB)
    digest = await put(store, tmp_path, data)
    for start, end in (
        (0, 1),
        (5, 5),
        (8 * MIB - 1, 8 * MIB + 1),
        (9 * MIB - 1, 9 * MIB),
        (9 * MIB, 9 * MIB),
    ):
        assert b"".join(await read(store, digest, start, end)) == data[start:end]


async def test_absent(store: BlobStore) -> None:
    digest = of(b"never put")
    with pytest.raises(Internal) as failure:
        await read(store, digest, 0, 1)
    assert failure.value.reason == "BLOB_LOST"


async def test_shorter_than_it_should_be(store: BlobStore, tmp_path: Path) -> None:
    digest = await put(store, tmp_path, b"12345")
    with pytest.raises(Internal) as failure:
        await read(store, digest, 0, 6)
    assert failure.value.reason == "BLOB_LOST"


async def test_again_does_no_harm(store: BlobStore, tmp_path: Path) -> None:
    data = content(9 * MIB)
    async with asyncio.TaskGroup() as group:
        for n in range(4):
            (tmp_path / str(n)).mkdir()
            group.create_task(put(store, tmp_path / str(n), data))
    assert b"".join(await read(store, of(data), 0, len(data))) == data


async def test_folder_is_laid_out_by_digest(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path / "blobs")
    digits = (await put(store, tmp_path, b"abc")).removeprefix("sha256:")
    files = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert [path for path in files if path.stat().st_size] == [
        tmp_path / "blobs" / "blobs" / "sha256" / digits[:2] / digits[2:]
    ]


async def test_store_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectBlobs(
        S3Store(
            "towline",
            endpoint="http://127.0.0.1:9",
            access_key_id="x",
            secret_access_key="x",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        ),
        "s3://towline",
    )
    with pytest.raises(Unavailable) as failure:
        await put(store, tmp_path, b"x")
    assert failure.value.reason == "BLOB_STORE_UNAVAILABLE"
    assert "s3://towline" in failure.value.message
    with pytest.raises(Unavailable):
        await read(store, of(b""), 0, 1)


async def test_bucket_that_is_not_there(s3_environment: None) -> None:
    with pytest.raises(Unavailable) as failure:
        await open_blob_store("s3://no-such-bucket")
    assert failure.value.reason == "BLOB_STORE_UNAVAILABLE"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "blobs",
        "/var/blobs",
        "file:",
        "file:///",
        "file://host/folder",
        "s3://",
        "ftp://host/x",
        "memory:///",
    ],
)
async def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        await open_blob_store(url)
    assert failure.value.metadata["field"] == "BLOB_URL"


async def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable) as failure:
        await open_blob_store((tmp_path / "file" / "blobs").as_uri())
    assert failure.value.reason == "BLOB_STORE_UNAVAILABLE"
