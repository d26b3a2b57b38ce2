"""Collection of what nobody needs, while others store, look for and use the same."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.errors import NotFound
from towline.service.postgres import connecting, transaction
from towline.v1.artifacts_pb2 import (
    ArtifactFile,
    CreateArtifactVersionRequest,
    DeleteArtifactVersionRequest,
    FindMissingBlobsRequest,
    UploadBlobsRequest,
    WholeBlob,
)
from towline_registry.blobs.collector import CollectionTimes, Collector
from towline_registry.blobs.spool import Spool
from towline_registry.blobs.store import BlobStore, FolderBlobs
from towline_registry.core.digests import Digest
from towline_registry.core.objects import object_key
from towline_registry.storage import blobs, references, upkeep
from towline_testing.registry import (
    Registry,
    digest_of,
    error_of,
    new_id,
    registry_service,
    registry_settings,
    start_process,
)
from towline_testing.waiting import eventually, eventually_async

DAY = timedelta(days=1)
NOW = timedelta(0)


class Ground(SimpleNamespace):
    """A registry, and a collector beside it."""

    registry: Registry
    engine: AsyncEngine
    store: BlobStore
    folder: Path

    def collector(self, grace: timedelta = DAY) -> Collector:
        times = CollectionTimes(grace=grace, every=DAY, spool=DAY)
        return Collector(self.engine, self.store, Spool(self.folder / "spool"), times)

    async def age(self, by: timedelta = 2 * DAY) -> None:
        """Let time pass since blobs were needed."""
        async with transaction(self.engine) as connection:
            await connection.execute(
                text("UPDATE registry.blobs SET needed_time = needed_time - CAST(:by AS interval)"),
                {"by": by},
            )

    async def send(self, *contents: bytes) -> list[str]:
        whole = [WholeBlob(digest=digest_of(data), data=data) for data in contents]
        async for _ in self.registry.blobs.UploadBlobs(iter([UploadBlobsRequest(blobs=whole)])):
            pass
        return [blob.digest for blob in whole]

    async def create(self, name: str, *contents: bytes) -> str:
        files = [
            ArtifactFile(path=str(n), digest=digest_of(data), size_bytes=len(data))
            for n, data in enumerate(contents)
        ]
        response = await self.registry.artifacts.CreateArtifactVersion(
            CreateArtifactVersionRequest(
                request_id=new_id(), artifact=f"artifacts/{name}", type="dataset", files=files
            )
        )
        return response.artifact_version.name

    async def missing(self, *contents: bytes) -> list[bytes]:
        by_digest = {digest_of(data): data for data in contents}
        answer = await self.registry.blobs.FindMissingBlobs(FindMissingBlobsRequest(digests=by_digest))
        return [by_digest[digest] for digest in answer.missing_digests]

    def objects(self) -> list[Path]:
        return [path for path in (self.folder / "blobs/blobs").rglob("*") if path.is_file()]


@pytest.fixture
async def ground(database_url: str, tmp_path: Path) -> AsyncIterator[Ground]:
    # Its own collector, which has the same grace, begins before anything is stored and comes again in hours.
    async with (
        registry_service(registry_settings(database_url, tmp_path)) as registry,
        connecting(database_url, pool_size=8) as engine,
    ):
        store = FolderBlobs(tmp_path / "blobs")
        yield Ground(registry=registry, engine=engine, store=store, folder=tmp_path)


async def test_what_nobody_needs_goes_and_all_else_stays(ground: Ground) -> None:
    large = random.Random(0).randbytes(3 * 1024 * 1024)
    await ground.send(b"needed", b"told of", b"forgotten")
    await ground.registry.upload(large)
    await ground.create("kept", b"needed")
    await ground.age()
    await ground.send(b"young")
    assert await ground.missing(b"told of") == []
    await ground.collector().collect()
    assert {path.read_bytes() for path in ground.objects()} == {b"needed", b"told of", b"young"}
    gone = await ground.missing(b"needed", b"told of", b"forgotten", b"young", large)
    assert gone == [b"forgotten", large]
    await ground.send(b"forgotten")
    assert await ground.registry.download(digest_of(b"forgotten")) == b"forgotten"


async def test_what_is_downloaded_or_sent_again_is_needed(ground: Ground) -> None:
    await ground.send(b"read", b"sent", b"in one piece")
    await ground.age()
    await ground.registry.download(digest_of(b"read"))
    await ground.send(b"sent")
    await ground.registry.upload(b"in one piece")
    await ground.collector().collect()
    assert await ground.missing(b"read", b"sent", b"in one piece") == []
    assert len(ground.objects()) == 3, "what was sent twice is kept once"


async def test_a_version_in_the_making_keeps_its_blobs(ground: Ground) -> None:
    [digest] = map(Digest, await ground.send(b"data"))
    await ground.age()
    async with transaction(ground.engine) as making:
        await blobs.require(making, {digest: 4}, "files")
        await ground.collector().collect()
        await references.add(making, "artifacts/a/versions/v0", [digest])
        await ground.collector().collect()
    await ground.collector().collect()
    assert await ground.registry.download(digest) == b"data"


async def test_a_version_that_comes_too_late_is_told_so(ground: Ground) -> None:
    [digest] = map(Digest, await ground.send(b"data"))
    await ground.age()

    async def make() -> str:
        try:
            async with transaction(ground.engine) as making:
                await blobs.require(making, {digest: 4}, "files")
        except NotFound as error:
            return error.reason
        return "made"

    async with asyncio.TaskGroup() as group, transaction(ground.engine) as collecting:
        count, _ = await blobs.discard(collecting, DAY, None, 10)
        assert count == 1
        made = group.create_task(make())
        looked = group.create_task(ground.missing(b"data"))
        await eventually_async(lambda: two_wait(ground.engine))
    assert made.result() == "BLOB_NOT_FOUND"
    assert looked.result() == [b"data"], "nobody is told of a blob that is just going"


async def two_wait(engine: AsyncEngine) -> bool:
    async with transaction(engine) as connection:
        waiting = await connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
        )
    return waiting == 2


async def test_bytes_stored_anew_survive_the_end_of_the_old_ones(ground: Ground) -> None:
    await ground.send(b"data")
    await ground.age()
    collector = ground.collector()
    await collector.discard_blobs()
    await ground.send(b"data")
    await ground.create("again", b"data")
    await collector.delete_objects()
    assert await ground.registry.download(digest_of(b"data")) == b"data"
    assert len(ground.objects()) == 1


async def test_a_collection_that_was_cut_off_is_ended_by_the_next(ground: Ground) -> None:
    await ground.send(b"data")
    await ground.age()
    await ground.collector().discard_blobs()
    assert len(ground.objects()) == 1
    async with asyncio.TaskGroup() as group:  # two replicas at once do no harm
        for _ in range(2):
            group.create_task(ground.collector().collect())
    assert ground.objects() == []
    async with transaction(ground.engine) as connection:
        assert await blobs.discarded(connection, 10) == []


async def test_objects_without_a_blob_go(ground: Ground) -> None:
    await ground.send(b"recorded")
    digest = Digest(digest_of(b"crashed"))
    await ground.store.put_small({object_key(digest, "crash"): b"crashed"})
    await ground.collector().delete_leftovers()
    assert len(ground.objects()) == 2, "an upload may be about to record it"
    await ground.collector(NOW).delete_leftovers()
    assert [path.read_bytes() for path in ground.objects()] == [b"recorded"]


async def test_the_store_of_another_registry_is_left_alone(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    await ground.send(b"recorded")
    await ground.collector().delete_leftovers()
    async with transaction(ground.engine) as connection:
        await connection.execute(text("DELETE FROM registry.identity"))
        await connection.execute(text("DELETE FROM registry.blobs"))
    await ground.collector(NOW).delete_leftovers()
    assert [path.read_bytes() for path in ground.objects()] == [b"recorded"]
    assert "another registry has marked the store" in caplog.text


async def test_one_replica_has_its_turn(ground: Ground) -> None:
    async def turn() -> bool:
        async with transaction(ground.engine) as connection:
            return await upkeep.begin(connection, "test", DAY)

    async with asyncio.TaskGroup() as group:
        turns = [group.create_task(turn()) for _ in range(6)]
    assert sorted(task.result() for task in turns) == [False] * 5 + [True]
    async with transaction(ground.engine) as connection:
        await connection.execute(
            text("UPDATE registry.upkeep SET start_time = start_time - interval '2 days'")
        )
    assert await turn()


@asynccontextmanager
async def collecting_without_pause(ground: Ground) -> AsyncIterator[None]:
    async def collect() -> None:
        collector = ground.collector(NOW)
        while True:
            await collector.discard_blobs()
            await collector.delete_objects()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(collect()) for _ in range(2)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def test_versions_keep_their_bytes_while_collectors_run_without_any_grace(ground: Ground) -> None:
    contents = [random.Random(seed).randbytes(2000) for seed in range(6)]
    made: list[str] = []

    async def work(seed: int) -> None:
        rng = random.Random(seed)
        for turn in range(25):
            some = rng.sample(contents, 3)
            await ground.send(*some)
            try:
                name = await ground.create(f"a{seed}-{turn}", *some)
            except grpc.RpcError as failure:
                assert error_of(failure).reason == "BLOB_NOT_FOUND"
                continue
            made.append(name)
            for data in some:
                assert await ground.registry.download(digest_of(data)) == data
            if rng.random() < 0.8:
                await ground.registry.artifacts.DeleteArtifactVersion(
                    DeleteArtifactVersionRequest(request_id=new_id(), name=name)
                )
                async with transaction(ground.engine) as connection:  # as if days had passed
                    await references.drop(connection, [name])

    async with collecting_without_pause(ground), asyncio.TaskGroup() as group:
        for seed in range(4):
            group.create_task(work(seed))
    assert len(made) > 10


async def test_the_service_collects_by_itself(database_url: str, tmp_path: Path) -> None:
    process = start_process(
        database_url,
        tmp_path,
        COLLECT_AFTER_HOURS="0.0001",
        COLLECT_EVERY_HOURS="0.0001",
        SPOOL_DAYS="0.00001",
    )
    (tmp_path / "spool" / f"{new_id()}-{'0' * 64}.part").write_bytes(b"nobody goes on with this")
    async with grpc.aio.insecure_channel(process.address) as channel:
        await Registry(process.address, channel).upload(b"nobody needs this")
    eventually(
        lambda: (
            not [path for path in (tmp_path / "blobs/blobs").rglob("*") if path.is_file()]
            and not any((tmp_path / "spool").iterdir())
        )
    )
    status, lines = process.stop()
    assert status == 0
    assert "Traceback" not in lines
