"""Whole folders up and down: nothing twice, nothing lost, nothing wrong."""

import asyncio
import filecmp
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid5

import pytest

from towline.client import About, AsyncClient, Doing, Endpoints, Moved, digests
from towline.client.blobs import _UPLOADS
from towline.client.reading import digests_of
from towline.client.transfers import Watch
from towline.client.trees import entries_of
from towline.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable
from towline.rpc.channel import open_channel
from towline_testing.command import towline
from towline_testing.cut import CuttingProxy, cutting_proxy
from towline_testing.postgres import PostgresServer
from towline_testing.registry import Registry, start_process, upload_header, upload_messages
from towline_testing.s3 import BUCKET, s3_server

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWLINE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
async def proxy(endpoints: Endpoints) -> AsyncIterator[CuttingProxy]:
    async with cutting_proxy(endpoints.registry, []) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: CuttingProxy, endpoints: Endpoints) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(Endpoints(proxy.address, endpoints.queue)) as client:
        yield client


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Many small files, some of them equal, and two large ones with the same content."""
    rng = random.Random(str(tmp_path))
    root = tmp_path / "tree"
    for number in range(400):
        file = root / f"part{number % 7}" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(rng.randbytes(4000) if number % 10 else b"the same in many")
    (root / "large").write_bytes(rng.randbytes(5 * MIB + 3))
    (root / "part1/large too").write_bytes((root / "large").read_bytes())
    (root / "empty").touch()
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    return root


def size_of(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def same(one: Path, other: Path) -> bool:
    def files(root: Path) -> dict[str, bool]:
        return {
            str(path.relative_to(root)): os.access(path, os.X_OK)
            for path in root.rglob("*")
            if path.is_file()
        }

    return files(one) == files(other) and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in files(one)
    )


async def test_a_folder_goes_up_once_and_comes_down_as_it_was(
    client: AsyncClient, proxy: CuttingProxy, tree: Path, tmp_path: Path
) -> None:
    made = await client.artifacts.upload(
        tree, "data", "dataset", about=About(aliases=["best"], metadata={"rows": 400})
    )
    first = proxy.sent
    # Equal content went up once.
    assert first < size_of(tree) - 5 * MIB + MIB
    assert (made.created, made.artifact_version.metadata_json) == (True, '{"rows": 400}')
    assert sorted(made.artifact_version.aliases) == ["best", "latest"]
    again = await client.artifacts.upload(tree, "data", "dataset")
    assert not again.created
    await client.artifacts.upload(tree, "other-data", "dataset")
    (tree / "part1/one more").write_bytes(b"one more")
    more = await client.artifacts.upload(tree, "data", "dataset")
    assert more.artifact_version.name == "artifacts/data/versions/v1"
    # Three manifests, asked after once, and one small file.
    assert proxy.sent - first < 0.01 * size_of(tree)

    await client.artifacts.download("data:v1", tmp_path / "out")
    assert same(tree, tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".*"))
    received = proxy.received
    await client.artifacts.download("data:v1", tmp_path / "out")
    assert proxy.received - received < 400 * 150


async def test_digests_known_from_before_are_no_proof_that_the_registry_has_them(
    client: AsyncClient, proxy: CuttingProxy, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("towline.client.known_digests._RACY_NS", -(10**18))
    entries = entries_of(tree)
    await digests_of(entries, Watch(None, 0, 0))
    assert (await digests_of(entries, Watch(None, 0, 0)))[1], "all are known"
    await client.artifacts.upload(tree, "known", "dataset")
    sent = proxy.sent
    await client.artifacts.upload(tree, "known-too", "dataset")
    assert proxy.sent - sent < 404 * 80, "one try, and no question"
    await client.artifacts.download("known", tmp_path / "out")
    assert same(tree, tmp_path / "out")


async def test_one_file_alone(client: AsyncClient, tree: Path, tmp_path: Path) -> None:
    await client.artifacts.upload(tree / "run.sh", "script", "code")
    version = await client.artifacts.download("script", tmp_path / "out")
    assert [(file.path, file.executable) for file in version.files] == [("run.sh", True)]
    assert os.access(tmp_path / "out/run.sh", os.X_OK)


async def test_breaks_on_the_way_up_and_down_do_not_show(
    client: AsyncClient, endpoints: Endpoints, proxy: CuttingProxy, tree: Path, tmp_path: Path
) -> None:
    proxy.cuts = [300_000, 1_000_000, 100, 2_000_000]
    await client.artifacts.upload(tree, "cut", "dataset")
    assert proxy.broken >= 3
    assert proxy.sent < 2 * size_of(tree)
    async with cutting_proxy(endpoints.registry, [500_000, 100, 3_000_000]) as other_way:
        async with AsyncClient(Endpoints(other_way.address, endpoints.queue)) as other:
            await other.artifacts.download("cut", tmp_path / "out")
        assert other_way.cuts == []
        assert other_way.broken >= 3
    assert same(tree, tmp_path / "out")


async def test_bytes_that_somebody_else_has_left_wrong_are_sent_anew(
    client: AsyncClient, proxy: CuttingProxy, endpoints: Endpoints
) -> None:
    data = random.Random(1).randbytes(4 * MIB)
    name = f"{digests.measure(data).digest}/{len(data)}"
    header = upload_header(data, upload_id=str(uuid5(_UPLOADS, name)))
    async with open_channel(endpoints.registry) as channel:
        wrong = upload_messages(header, bytes(2 * MIB))
        assert not (await Registry(endpoints.registry, channel).blobs.UploadBlob(wrong)).complete
    await client.blobs.upload(data)
    assert 6 * MIB < proxy.sent < 7 * MIB, "half of it in vain, then all of it"


async def test_how_far_it_is_is_told(client: AsyncClient, tree: Path, tmp_path: Path) -> None:
    told: list[Moved] = []
    await client.artifacts.upload(tree, "told", "dataset", progress=told.append)
    await client.artifacts.download("told", tmp_path / "out", progress=told.append)
    phases = [Doing.READING, Doing.SENDING, Doing.COMPARING, Doing.RECEIVING]
    assert list(dict.fromkeys(moved.doing for moved in told)) == phases
    for phase in phases:
        *_, last = [moved for moved in told if moved.doing is phase]
        assert (last.files, last.size_bytes) == (404, size_of(tree))
        assert (last.all_files, last.all_bytes) == (404, size_of(tree))
        assert any(0 < moved.size_bytes < last.all_bytes for moved in told if moved.doing is phase)


async def test_what_is_there_is_kept_or_refused_or_replaced(
    client: AsyncClient, tree: Path, tmp_path: Path
) -> None:
    await client.artifacts.upload(tree, "there", "dataset")
    out = tmp_path / "out"
    (out / "part1").mkdir(parents=True)
    (out / "large").write_bytes((tree / "large").read_bytes())
    (out / "large").chmod(0o777)
    inode = (out / "large").stat().st_ino
    (out / "part1/1.bin").write_bytes(b"something else")
    (out / "mine").write_bytes(b"mine")
    with pytest.raises(AlreadyExists, match=r"other content in part1/1\.bin;"):
        await client.artifacts.download("there", out, replace=False)
    assert not (out / "run.sh").exists()
    await client.artifacts.download("there", out)
    assert (out / "large").stat().st_ino == inode
    assert (out / "mine").read_bytes() == b"mine"
    (out / "mine").unlink()
    assert same(tree, out)


@pytest.mark.parametrize("name", ["large", "part2/2.bin"])
@pytest.mark.parametrize("how", ["changed", "vanished"])
async def test_a_file_that_changes_or_vanishes_on_the_way_is_named(
    client: AsyncClient, tree: Path, name: str, how: str
) -> None:
    (tree / "part1/large too").unlink()

    def meddle(moved: Moved) -> None:
        file = tree / name
        if moved.doing == Doing.SENDING and file.exists():
            file.write_bytes(bytes(file.stat().st_size)) if how == "changed" else file.unlink()

    with pytest.raises(FailedPrecondition, match=f"'{name}' {how} while it was uploaded") as failure:
        await client.artifacts.upload(tree, "meddled", "dataset", progress=meddle)
    assert failure.value.reason == "FILE_CHANGED"


async def test_metadata_that_json_cannot_hold_is_refused(client: AsyncClient, tree: Path) -> None:
    with pytest.raises(InvalidArgument, match="metadata: is nothing that JSON can hold"):
        await client.artifacts.upload(tree, "odd", "dataset", about=About(metadata={"x": float("nan")}))


async def test_without_a_registry_nothing_is_read(tree: Path) -> None:
    told: list[Moved] = []
    async with AsyncClient(Endpoints("127.0.0.1:1", "127.0.0.1:1")) as client:
        with pytest.raises(Unavailable):
            await client.artifacts.upload(tree, "none", "dataset", progress=told.append)
    assert told == []


async def test_several_uploads_of_the_same_at_once(
    client: AsyncClient, proxy: CuttingProxy, tree: Path, tmp_path: Path
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(client.artifacts.upload(tree, f"at-once-{number}", "dataset"))
    await client.artifacts.download("at-once-2", tmp_path / "out")
    assert same(tree, tmp_path / "out")


async def test_a_registry_with_its_bytes_in_s3(
    embedded_postgres: PostgresServer, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded_postgres.psql("CREATE DATABASE in_s3")
    (tmp_path / "s3").mkdir()
    with s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        process = start_process(
            embedded_postgres.url("in_s3"),
            tmp_path / "s3",
            BLOB_URL=f"s3://{BUCKET}/some/prefix",
            LOG_LEVEL="DEBUG",
        )
        async with AsyncClient(Endpoints(process.address, "127.0.0.1:1")) as client:
            await client.artifacts.upload(tree, "in-s3", "dataset")
            await client.artifacts.download("in-s3", tmp_path / "out")
        status, lines = process.stop()
    embedded_postgres.psql("DROP DATABASE in_s3 WITH (FORCE)")
    assert same(tree, tmp_path / "out")
    assert status == 0
    assert environment["AWS_SECRET_ACCESS_KEY"] not in lines
    assert not (tmp_path / "s3/blobs").exists()


def test_the_command_puts_and_gets(endpoints: Endpoints, tree: Path, tmp_path: Path) -> None:
    env = {"TOWLINE_REGISTRY_ADDRESS": endpoints.registry, "TOWLINE_QUEUE_ADDRESS": endpoints.queue}
    put = ("artifact", "put", tree, "--name", "by-hand", "--type", "dataset", "--alias", "best")
    done = towline(*put, "--metadata", "rows=400", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("stored by-hand:v0 (404 files, ")
    assert towline(*put, env=env).stdout.startswith("unchanged by-hand:v0")
    got = towline("artifact", "get", "by-hand:best", "--to", tmp_path / "out", "--json", env=env)
    assert got.returncode == 0, got.stderr
    assert '"metadata_json": "{\\"rows\\": 400}"' in got.stdout
    assert same(tree, tmp_path / "out")
    (tmp_path / "out/run.sh").write_text("mine")
    refused = towline("artifact", "get", "by-hand", "--to", tmp_path / "out", env=env)
    assert (refused.returncode, "other content in run.sh" in refused.stderr) == (4, True)
    os.mkfifo(tree / "pipe")
    refused = towline(*put, env=env)
    assert (refused.returncode, "'pipe' is a named pipe" in refused.stderr) == (2, True)
