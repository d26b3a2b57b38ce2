"""The client with a real registry: jobs, blobs, artifacts, broken connections."""

import asyncio
import hashlib
import itertools
import json
import os
from pathlib import Path

import pytest

from towline.capture import capture_command, create_job
from towline.client import About, AsyncClient, Client, Endpoints
from towline.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from towline.v1 import artifacts_pb2, jobs_pb2
from towline_testing.checkouts import git_checkout
from towline_testing.cut import cutting_proxy


@pytest.fixture
async def client(endpoints):
    async with AsyncClient(endpoints) as client:
        yield client


def image(reference: str, **config: object) -> jobs_pb2.JobSpec:
    source = jobs_pb2.ImageSource(reference=reference)
    return jobs_pb2.JobSpec(image=source, config_json=json.dumps(config))


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def test_jobs_are_made_read_listed_and_aliased_by_short_names(client):
    first = await client.jobs.create_version("train", image("debian:12", lr=0.1), author="ada")
    again = await client.jobs.create_version("train", image("debian:12", lr=0.1))
    second = await client.jobs.create_version("jobs/train", image("debian:13"), aliases=["next"])
    assert (first.created, again.created, second.created) == (True, False, True)
    assert (await client.jobs.get("train")).name == second.job_version.name == "jobs/train/versions/v1"
    assert (await client.jobs.get("train:v0")).author == "ada"
    moved = await client.jobs.set_alias("train:v0", "best")
    assert moved.name == (await client.jobs.get("train:best")).name == "jobs/train/versions/v0"
    assert [version.name[-2:] async for version in client.jobs.versions("train")] == ["v1", "v0"]
    assert "jobs/train" in [job.name async for job in client.jobs.list()]
    with pytest.raises(NotFound) as caught:
        await client.jobs.get("train:v9")
    assert caught.value.reason == "JOB_VERSION_NOT_FOUND"


async def test_lists_longer_than_a_page_are_walked_to_their_end(client, monkeypatch):
    monkeypatch.setattr("towline.client.jobs.PAGE_SIZE", 2)
    for number in range(5):
        await client.jobs.create_version("paged", image(f"debian:{number}"))
    names = [version.name async for version in client.jobs.versions("paged")]
    assert names == [f"jobs/paged/versions/v{number}" for number in reversed(range(5))]


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 5 * 1024 * 1024 + 1])
async def test_blobs_go_up_and_come_down(client, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "in").write_bytes(data)
    sent, received = [], []
    assert await client.blobs.upload(tmp_path / "in", lambda done, of: sent.append((done, of))) == digest_of(
        data
    )
    assert sent[-1] == (size, size)
    assert await client.blobs.upload(data) == digest_of(data)
    await client.blobs.download(
        digest_of(data), tmp_path / "deep/er/out", lambda done, of: received.append(done)
    )
    assert (tmp_path / "deep/er/out").read_bytes() == data
    assert [file.name for file in (tmp_path / "deep/er").iterdir()] == ["out"]
    assert received == sorted(received)


async def test_missing_blobs_are_told_in_order(client):
    there = await client.blobs.upload(b"there")
    absent = [digest_of(b"absent 1"), digest_of(b"absent 2")]
    assert await client.blobs.missing([absent[1], there, absent[0]]) == [absent[1], absent[0]]
    with pytest.raises(InvalidArgument):
        await client.blobs.missing(["sha256:abc"])


async def test_an_unknown_blob_is_not_found_and_leaves_nothing(client, tmp_path):
    with pytest.raises(NotFound) as caught:
        await client.blobs.download(digest_of(b"unknown"), tmp_path / "out")
    assert caught.value.reason == "BLOB_NOT_FOUND"
    assert not (tmp_path / "out").exists()


async def test_an_upload_survives_connections_that_break(endpoints, tmp_path):
    data = os.urandom(12 * 1024 * 1024)
    (tmp_path / "in").write_bytes(data)
    progress: list[int] = []
    async with cutting_proxy(endpoints.registry, [3_000_000, 100, 4_000_000, 5_500_000]) as proxy:
        async with AsyncClient(Endpoints(proxy.address, endpoints.queue)) as client:
            await client.blobs.upload(tmp_path / "in", lambda done, _: progress.append(done))
        assert proxy.broken >= 3
        assert proxy.cuts == []
    async with AsyncClient(endpoints) as client:
        assert await client.blobs.missing([digest_of(data)]) == []
    assert sum(after < before for before, after in itertools.pairwise(progress)) <= 3


async def test_a_download_survives_connections_that_break(endpoints, tmp_path):
    data = os.urandom(12 * 1024 * 1024)
    async with AsyncClient(endpoints) as client:
        digest = await client.blobs.upload(data)
    async with cutting_proxy(endpoints.registry, [2_000_000, 4_000_000, 100]) as proxy:
        async with AsyncClient(Endpoints(proxy.address, endpoints.queue)) as client:
            await client.blobs.download(digest, tmp_path / "out")
        assert proxy.broken == 3
    assert (tmp_path / "out").read_bytes() == data


async def test_a_download_goes_on_with_what_an_earlier_one_left(client, tmp_path):
    data = os.urandom(3 * 1024 * 1024)
    digest = await client.blobs.upload(data)
    partial = tmp_path / f".{digest.removeprefix('sha256:')[:16]}.partial"
    partial.write_bytes(data[:2_000_000])
    steps: list[int] = []
    await client.blobs.download(digest, tmp_path / "out", lambda done, _: steps.append(done))
    assert (tmp_path / "out").read_bytes() == data
    assert min(steps) > 2_000_000


@pytest.mark.parametrize("left", ["all", "something else", "more"])
async def test_a_download_is_right_whatever_an_earlier_one_left(client, tmp_path, left):
    data = os.urandom(3 * 1024 * 1024)
    digest = await client.blobs.upload(data)
    partial = tmp_path / f".{digest.removeprefix('sha256:')[:16]}.partial"
    partial.write_bytes({"all": data, "something else": b"something else", "more": data + b"more"}[left])
    await client.blobs.download(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert not partial.exists()


async def test_two_downloads_to_one_place_do_no_harm(client, tmp_path):
    data = os.urandom(5 * 1024 * 1024)
    digest = await client.blobs.upload(data)
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(client.blobs.download(digest, tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == data
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


async def test_bytes_that_are_not_the_blob_are_refused_and_dropped(client, registry_folder, tmp_path):
    data = os.urandom(100_000)
    digest = await client.blobs.upload(data)
    files = [file for file in (registry_folder / "blobs").rglob("*") if file.is_file()]
    (stored,) = [file for file in files if file.read_bytes() == data]
    stored.write_bytes(bytes(len(data)))
    with pytest.raises(Aborted) as caught:
        await client.blobs.download(digest, tmp_path / "out")
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_shrinks_while_it_is_uploaded_is_an_error(client, tmp_path):
    file = tmp_path / "in"
    file.write_bytes(os.urandom(4 * 1024 * 1024))

    def shrink(done: int, _: int) -> None:
        os.truncate(file, done)

    with pytest.raises(FailedPrecondition) as caught:
        await client.blobs.upload(file, shrink)
    assert caught.value.reason == "FILE_CHANGED"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    files = {
        "a.txt": b"same",
        "sub/b.txt": b"same",
        "sub/run.sh": b"#!/bin/sh",
        "empty": b"",
        "ü.bin": b"\xff" * 10,
    }
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "sub/run.sh").chmod(0o755)
    (root / "link").symlink_to("a.txt")
    return root


async def test_a_folder_becomes_an_artifact_and_a_folder_again(client, tree, tmp_path):
    made = await client.artifacts.upload(tree, "digits", "dataset", about=About(producer_run="abc"))
    assert made.created
    version = await client.artifacts.get("digits")
    assert (version.name, version.type, version.producer_run) == (
        "artifacts/digits/versions/v0",
        "dataset",
        "runs/abc",
    )
    assert [file.path for file in version.files] == [
        "a.txt",
        "empty",
        "link",
        "sub/b.txt",
        "sub/run.sh",
        "ü.bin",
    ]
    (tmp_path / "to").mkdir()
    (tmp_path / "to/a.txt").write_text("replaced")
    await client.artifacts.download("digits:v0", tmp_path / "to")
    for file in version.files:
        assert (tmp_path / "to" / file.path).read_bytes() == (tree / file.path).read_bytes()
        assert os.access(tmp_path / "to" / file.path, os.X_OK) == (file.path == "sub/run.sh")
    assert not list((tmp_path / "to").rglob(".*"))
    assert not (await client.artifacts.upload(tree, "digits", "dataset")).created
    assert [version.name async for version in client.artifacts.versions("digits")] == [
        "artifacts/digits/versions/v0"
    ]


async def test_a_folder_that_is_none_is_refused(client, tmp_path):
    with pytest.raises(InvalidArgument, match="nowhere cannot be read: No such file"):
        await client.artifacts.upload(tmp_path / "nowhere", "none", "dataset")


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", ""])
async def test_a_manifest_that_leaves_the_folder_writes_nothing(client, tmp_path, monkeypatch, path):
    digest = await client.blobs.upload(b"evil")
    files = [artifacts_pb2.ArtifactFile(path=each, digest=digest, size_bytes=4) for each in ("good", path)]

    async def get(
        _: str,
    ) -> artifacts_pb2.ArtifactVersion:  # a registry of ours refuses to keep such a manifest
        return artifacts_pb2.ArtifactVersion(files=files)

    monkeypatch.setattr(client.artifacts, "get", get)
    with pytest.raises(InvalidArgument, match="leaves the folder"):
        await client.artifacts.download("evil", tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


async def test_a_link_that_leads_out_is_not_followed(client, tree, tmp_path):
    await client.artifacts.upload(tree, "linked", "dataset")
    (tmp_path / "outside").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to/sub").symlink_to(tmp_path / "outside")
    with pytest.raises(FailedPrecondition) as caught:
        await client.artifacts.download("linked", tmp_path / "to")
    assert caught.value.reason == "PATH_LEAVES_FOLDER"
    assert list((tmp_path / "outside").iterdir()) == []


async def test_a_captured_command_becomes_a_version_once(client, tmp_path):
    tree = git_checkout(tmp_path / "digits")
    tree.commit({"train.py": "x"})
    created = []
    for _ in range(2):
        with await asyncio.to_thread(capture_command, ["python3", "train.py"], tree.root) as captured:
            response = await create_job(client, captured, job="captured", author="ada")
        created.append((response.created, response.job_version.name))
    assert created == [(True, "jobs/captured/versions/v0"), (False, "jobs/captured/versions/v0")]
    version = await client.jobs.get("captured")
    assert version.author == "ada"
    assert await client.blobs.missing([version.spec.code.digest]) == []


def test_the_client_for_people_does_the_same(endpoints, tmp_path):
    with Client(endpoints) as client:
        digest = client.blobs.upload(b"people")
        client.blobs.download(digest, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"people"
        client.jobs.create_version("people", image("debian:12"))
        assert "jobs/people" in [job.name for job in client.jobs.list()]
        jobs = client.jobs.list()
        assert next(jobs)
        jobs.close()
        with pytest.raises(NotFound):
            client.jobs.get("nobody")
