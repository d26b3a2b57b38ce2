"""What every BlobStore does: a local folder, memory, and S3 over HTTP."""

import asyncio
import errno
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.store import MemoryStore, S3Store

from towline.errors import Internal, InvalidArgument, Unavailable
from towline_registry.blobs.store import BlobStore, FolderBlobs, ObjectBlobs, open_blob_store
from towline_registry.core.digests import of
from towline_registry.core.objects import ObjectKey, object_key
from towline_testing.s3 import BUCKET, s3_server

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def s3() -> Iterator[Mapping[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def s3_environment(s3: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.items():
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
            yield await open_blob_store(f"s3://{BUCKET}/some/prefix")


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def key_of(data: bytes, mark: str = "a") -> ObjectKey:
    return object_key(of(data), mark)


async def put(store: BlobStore, folder: Path, data: bytes, mark: str = "a") -> ObjectKey:
    source = folder / f"source-{mark}"
    source.write_bytes(data)
    await store.put(key_of(data, mark), source, len(data))
    source.unlink()
    return key_of(data, mark)


async def read(store: BlobStore, key: ObjectKey, start: int, end: int) -> list[bytes]:
    return [piece async for piece in store.read(key, start=start, end=end)]


async def keys_in(store: BlobStore, moment: datetime) -> set[ObjectKey]:
    return {key async for page in store.put_before(moment) for key in page}


@pytest.mark.parametrize("size", [0, 1, MIB, 8 * MIB, 21 * MIB + 3])
async def test_bytes_come_back(store: BlobStore, tmp_path: Path, size: int) -> None:
    data = content(size)
    key = await put(store, tmp_path, data)
    pieces = await read(store, key, 0, size)
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= MIB for piece in pieces)


async def test_ranges(store: BlobStore, tmp_path: Path) -> None:
    data = content(9 * MIB)
    key = await put(store, tmp_path, data)
    for start, end in (
        (0, 1),
        (5, 5),
        (8 * MIB - 1, 8 * MIB + 1),
        (9 * MIB - 1, 9 * MIB),
        (9 * MIB, 9 * MIB),
    ):
        assert b"".join(await read(store, key, start, end)) == data[start:end]


async def test_absent(store: BlobStore) -> None:
    key = key_of(b"never put")
    with pytest.raises(Internal) as failure:
        await read(store, key, 0, 1)
    assert failure.value.reason == "BLOB_LOST"


async def test_shorter_than_it_should_be(store: BlobStore, tmp_path: Path) -> None:
    key = await put(store, tmp_path, b"12345")
    with pytest.raises(Internal) as failure:
        await read(store, key, 0, 6)
    assert failure.value.reason == "BLOB_LOST"


async def test_again_does_no_harm(store: BlobStore, tmp_path: Path) -> None:
    data = content(9 * MIB)
    async with asyncio.TaskGroup() as group:
        for n in range(4):
            (tmp_path / str(n)).mkdir()
            group.create_task(put(store, tmp_path / str(n), data))
    assert b"".join(await read(store, key_of(data), 0, len(data))) == data


async def test_many_small_ones_come_and_go(store: BlobStore) -> None:
    contents = {key_of(data): data for data in [b"", *(content(n) for n in range(1, 300))]}
    await store.put_small(contents)
    sizes = {key: len(data) for key, data in reversed(contents.items())}
    assert await store.read_small(sizes) == list(reversed(contents.values()))
    assert await store.read_small({}) == []
    key, data = list(contents.items())[7]
    assert b"".join(await read(store, key, 0, len(data))) == data
    for wrong in ({key: len(data) + 1}, {key_of(b"never put"): 3}):
        with pytest.raises(Internal) as failure:
            await store.read_small(wrong)
        assert failure.value.reason == "BLOB_LOST"


async def test_deleted_ones_are_gone_and_others_stay(store: BlobStore, tmp_path: Path) -> None:
    small = {key_of(data): data for data in (b"a", b"b", b"c")}
    await store.put_small(small)
    large = await put(store, tmp_path, content(9 * MIB))
    a, b, c = small
    await store.delete([a, key_of(b"never put"), large])
    await store.delete([a])
    await store.delete([])
    assert await store.read_small({b: 1, c: 1}) == [b"b", b"c"]
    for gone in (a, large):
        with pytest.raises(Internal):
            await read(store, gone, 0, 1)


async def test_those_put_before_a_moment(store: BlobStore, tmp_path: Path) -> None:
    small = {key_of(data): data for data in (content(n) for n in range(1, 30))}
    await store.put_small(small)
    large = await put(store, tmp_path, content(MIB))
    # Clocks of file systems and servers tick a little behind ours.
    assert await keys_in(store, datetime.now(UTC) + timedelta(seconds=2)) >= {large, *small}
    assert not await keys_in(store, datetime.now(UTC) - timedelta(minutes=1)) & {large, *small}


async def test_no_credentials_in_what_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_SESSION_TOKEN": secret[::-1],
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("towline_registry.blobs.store._RETRIES", {"max_retries": 0})
    with pytest.raises(Unavailable) as failure:
        await open_blob_store("s3://towline")
    told = f"{failure.value.message} {failure.value.metadata} {failure.value.__cause__}"
    assert not any(word in told for word in (secret, secret[::-1], "AKIA"))


async def test_folder_on_another_file_system_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_link)
    store = FolderBlobs(tmp_path / "blobs")
    data = content(9 * MIB)
    key = await put(store, tmp_path, data)
    assert b"".join(await read(store, key, 0, len(data))) == data


async def test_folder_is_laid_out_by_digest(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path / "blobs")
    await put(store, tmp_path, b"abc", "mark")
    digits = of(b"abc").removeprefix("sha256:")
    files = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert [path for path in files if path.stat().st_size] == [
        tmp_path / "blobs" / "blobs" / "sha256" / digits[:2] / f"{digits[2:]}.mark"
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
        await read(store, key_of(b""), 0, 1)


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
