"""ArtifactService over gRPC, on real PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towline.v1.artifacts_pb2 import (
    ArtifactFile,
    CreateArtifactVersionRequest,
    CreateArtifactVersionResponse,
    GetArtifactVersionRequest,
    ListArtifactsRequest,
    ListArtifactVersionsRequest,
)
from towline_testing.registry import (
    Registry,
    digest_of,
    new_id,
    refused,
    registry_service,
    registry_settings,
)

ONE, TWO, EMPTY = b"one", b"twenty-two", b""


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        for data in (ONE, TWO, EMPTY):
            await service.upload(data)
        yield service


def file(path: str, data: bytes = ONE, **fields: object) -> ArtifactFile:
    values = {"path": path, "digest": digest_of(data), "size_bytes": len(data)} | fields
    return ArtifactFile(**values)


def request(*files: ArtifactFile, **fields: object) -> CreateArtifactVersionRequest:
    values = {"request_id": new_id(), "artifact": "artifacts/out", "type": "outputs"} | fields
    return CreateArtifactVersionRequest(files=files, **values)


async def create(registry: Registry, *files: ArtifactFile, **fields: object) -> CreateArtifactVersionResponse:
    return await registry.artifacts.CreateArtifactVersion(request(*files, **fields))


async def test_manifest_comes_back_in_order(registry: Registry) -> None:
    files = [
        file("ü/größe.txt", TWO),
        file("a.bin", EMPTY),
        file("run.sh", executable=True),
        file("new\nline"),
    ]
    answer = await create(registry, *files, producer_run="runs/abc-1")
    version = answer.artifact_version
    assert answer.created
    assert version.name == "artifacts/out/versions/v0"
    assert (version.type, version.producer_run) == ("outputs", "runs/abc-1")
    assert (version.file_count, version.size_bytes) == (4, 2 * len(ONE) + len(TWO))
    assert not version.files
    for word in ("v0", "latest"):
        got = await registry.artifacts.GetArtifactVersion(
            GetArtifactVersionRequest(name=f"artifacts/out/versions/{word}")
        )
        assert list(got.artifact_version.files) == sorted(files, key=lambda each: each.path)
        got.artifact_version.ClearField("files")
        assert got.artifact_version == version


async def test_equal_content_is_not_created_twice(registry: Registry) -> None:
    first = await create(registry, file("a"), file("b", TWO), producer_run="runs/one")
    again = await create(registry, file("b", TWO), file("a"), producer_run="runs/two")
    assert not again.created
    assert again.artifact_version == first.artifact_version
    for other in (
        await create(registry, file("a"), file("b", TWO, executable=True)),
        await create(registry, file("a"), file("b", TWO), type="dataset"),
        await create(registry),
    ):
        assert other.created
    assert other.artifact_version.name == "artifacts/out/versions/v3"
    assert (other.artifact_version.file_count, other.artifact_version.size_bytes) == (0, 0)
    back = await create(registry, file("a"), file("b", TWO), aliases=["best", "again", "best"])
    assert not back.created, "any version is compared"
    assert back.artifact_version.name == first.artifact_version.name
    assert list(back.artifact_version.aliases) == ["again", "best", "latest"], "it was sent last"
    [artifact] = (await registry.artifacts.ListArtifacts(ListArtifactsRequest())).artifacts
    assert (artifact.latest_version, artifact.version_count) == (first.artifact_version.name, 4)


async def test_equal_and_different_versions_at_once(registry: Registry) -> None:
    async with asyncio.TaskGroup() as group:
        same = [group.create_task(create(registry, file("a"))) for _ in range(20)]
    assert sum(call.result().created for call in same) == 1
    async with asyncio.TaskGroup() as group:
        different = [group.create_task(create(registry, file(f"file-{n}"))) for n in range(20)]
    assert all(call.result().created for call in different)
    names = {call.result().artifact_version.name for call in different}
    assert names == {f"artifacts/out/versions/v{n}" for n in range(1, 21)}


async def test_repeated_request_gets_the_first_answer(registry: Registry) -> None:
    asked = request(file("a"))
    first = await registry.artifacts.CreateArtifactVersion(asked)
    await create(registry, file("b"))
    assert await registry.artifacts.CreateArtifactVersion(asked) == first
    asked.type = "dataset"
    assert (await refused(registry.artifacts.CreateArtifactVersion(asked))).reason == "REQUEST_ID_REUSED"


async def test_blobs_must_be_there(registry: Registry) -> None:
    missing = [file("b", b"never sent"), file("c", b"nor this")]
    error = await refused(create(registry, file("a"), *missing))
    assert error.reason == "BLOB_NOT_FOUND"
    assert error.metadata["missing_count"] == "2"
    assert error.metadata["digest"] in {each.digest for each in missing}
    error = await refused(create(registry, file("a", size_bytes=4)))
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "files.size_bytes")
    listing = registry.artifacts.ListArtifactVersions(ListArtifactVersionsRequest(parent="artifacts/out"))
    assert (await refused(listing)).reason == "ARTIFACT_NOT_FOUND"


@pytest.mark.one_postgres
@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (request(artifact="out"), "artifact"),
        (request(type=""), "type"),
        (request(type="Outputs"), "type"),
        (request(producer_run="mine"), "producer_run"),
        (request(file("/etc/passwd")), "files.path"),
        (request(file("a/../../b")), "files.path"),
        (request(file("a"), file("a")), "files.path"),
        (request(file("a"), file("a/b")), "files.path"),
        (request(file("a", digest="x")), "files.digest"),
        (request(file("a", size_bytes=-1)), "files.size_bytes"),
        (request(request_id="x"), "request_id"),
        (request(aliases=["latest"]), "aliases"),
        (request(aliases=["v3"]), "aliases"),
        (request(producer_job_version="jobs/a"), "producer_job_version"),
        (request(producer_job_version="jobs/a/versions/prod"), "producer_job_version"),
        (request(metadata_json="[]"), "metadata_json"),
        (request(metadata_json="{"), "metadata_json"),
        (request(metadata_json=json.dumps({"a": "x" * 65536})), "metadata_json"),
    ],
)
async def test_wrong_request_is_refused_by_field(
    registry: Registry, asked: CreateArtifactVersionRequest, field: str
) -> None:
    error = await refused(registry.artifacts.CreateArtifactVersion(asked))
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", field)


async def test_what_is_not_there_is_said_by_name(registry: Registry) -> None:
    await create(registry, file("a"))
    for name, reason in (
        ("none/versions/v0", "ARTIFACT_NOT_FOUND"),
        ("out/versions/v1", "ARTIFACT_VERSION_NOT_FOUND"),
        ("out/versions/prod", "ARTIFACT_VERSION_NOT_FOUND"),
        ("out/versions/v01", "ARTIFACT_VERSION_NOT_FOUND"),
    ):
        error = await refused(
            registry.artifacts.GetArtifactVersion(GetArtifactVersionRequest(name=f"artifacts/{name}"))
        )
        assert error.reason == reason
        assert error.metadata["name"] in ("artifacts/none", f"artifacts/{name}")
    error = await refused(registry.artifacts.GetArtifactVersion(GetArtifactVersionRequest(name="out:v0")))
    assert error.metadata["field"] == "name"


async def test_versions_are_listed_newest_first_in_pages(registry: Registry) -> None:
    for n in range(5):
        await create(registry, file(f"file-{n}"))
    names: list[str] = []
    token = ""
    while True:
        listing = ListArtifactVersionsRequest(parent="artifacts/out", page_size=2, page_token=token)
        page = await registry.artifacts.ListArtifactVersions(listing)
        assert not any(version.files for version in page.artifact_versions)
        names += [version.name for version in page.artifact_versions]
        if not (token := page.next_page_token):
            break
        # A version made between two pages must not shift them.
        await create(registry, file(f"later-{len(names)}"))
    assert names == [f"artifacts/out/versions/v{n}" for n in (4, 3, 2, 1, 0)]
    for bad in ({"page_token": "x"}, {"page_size": -1}, {"parent": "artifacts/"}):
        [field] = bad
        listing = ListArtifactVersionsRequest(**({"parent": "artifacts/out"} | bad))
        error = await refused(registry.artifacts.ListArtifactVersions(listing))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", field)


async def test_artifacts_are_listed_by_name_in_pages(registry: Registry) -> None:
    for word, kind in (("b", "model"), ("a", "dataset"), ("C", "model"), ("d", "model")):
        await create(registry, file("x"), artifact=f"artifacts/{word}", type=kind)
    await create(registry, file("y"), artifact="artifacts/d", type="dataset")

    async def listed(**fields: object) -> list[str]:
        seen: list[str] = []
        token = ""
        while True:
            asked = ListArtifactsRequest(page_token=token, **fields)
            page = await registry.artifacts.ListArtifacts(asked)
            seen += [artifact.name for artifact in page.artifacts]
            if not (token := page.next_page_token):
                return seen

    assert await listed(page_size=3) == [f"artifacts/{word}" for word in ("C", "a", "b", "d")]
    assert await listed(page_size=1, type="model") == ["artifacts/C", "artifacts/b"], "of the latest version"
    whole = await registry.artifacts.ListArtifacts(ListArtifactsRequest(page_size=1))
    for bad in ({"page_token": "x"}, {"type": "Model"}, {"page_size": -1}):
        error = await refused(registry.artifacts.ListArtifacts(ListArtifactsRequest(**bad)))
        assert error.metadata["field"] == next(iter(bad))
    other = ListArtifactsRequest(page_token=whole.next_page_token, type="model")
    assert (await refused(registry.artifacts.ListArtifacts(other))).metadata["field"] == "page_token"


async def test_what_the_maker_says_is_kept(registry: Registry) -> None:
    said = json.dumps({"accuracy": 0.9, "ü": [1]})
    made = await create(
        registry,
        file("a"),
        metadata_json=said,
        producer_run="runs/a",
        producer_job_version="jobs/train/versions/v2",
    )
    version = made.artifact_version
    assert (version.metadata_json, version.producer_run) == (said, "runs/a")
    assert version.producer_job_version == "jobs/train/versions/v2"
    got = await registry.artifacts.GetArtifactVersion(
        GetArtifactVersionRequest(name=version.name, without_files=True)
    )
    assert got.artifact_version == version


async def test_large_manifests(registry: Registry) -> None:
    files = [file(f"folder-{n % 100:03}/file-{n:05}.txt", (ONE, TWO, EMPTY)[n % 3]) for n in range(10_000)]
    version = (await create(registry, *files)).artifact_version
    assert version.file_count == 10_000
    got = await registry.artifacts.GetArtifactVersion(GetArtifactVersionRequest(name=version.name))
    assert list(got.artifact_version.files) == sorted(files, key=lambda each: each.path)
    assert not (await create(registry, *reversed(files))).created

    error = await refused(create(registry, *[file(str(n)) for n in range(100_001)]))
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "files")
    # What goes in must come out in one message, with what the registry adds.
    long = [file(f"{n:05}" + "x" * 200) for n in range(56_000)]
    error = await refused(create(registry, *long))
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "files")
    assert (await create(registry, *long[:52_000])).created
    got = await registry.artifacts.GetArtifactVersion(
        GetArtifactVersionRequest(name="artifacts/out/versions/latest")
    )
    assert len(got.artifact_version.files) == 52_000
