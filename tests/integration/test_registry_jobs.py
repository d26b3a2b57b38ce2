"""JobService over gRPC, on real PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towline.v1 import jobs_pb2
from towline.v1.jobs_pb2 import (
    ArtifactInput,
    CodeSource,
    CreateJobVersionRequest,
    GetJobVersionRequest,
    GitSource,
    ImageSource,
    JobSpec,
    ListJobsRequest,
    ListJobVersionsRequest,
    Provenance,
    PythonEnvironment,
    SetJobAliasRequest,
    Wheel,
)
from towline_testing.registry import (
    Registry,
    digest_of,
    new_id,
    refused,
    registry_service,
    registry_settings,
)


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        yield service


def image(config: object = None, **fields: object) -> JobSpec:
    return JobSpec(image=ImageSource(reference="alpine:3"), config_json=json.dumps(config or {}), **fields)


async def get(registry: Registry, name: str) -> jobs_pb2.JobVersion:
    return (await registry.jobs.GetJobVersion(GetJobVersionRequest(name=name))).job_version


async def test_first_version_makes_the_job(registry: Registry) -> None:
    spec = image({"lr": 0.1, "name": "ünï"})
    answer = await registry.create("jobs/train", spec, author="ada", aliases=["prod", "best", "prod"])
    version = answer.job_version
    assert answer.created
    assert version.name == "jobs/train/versions/v0"
    assert version.author == "ada"
    assert list(version.aliases) == ["best", "latest", "prod"]
    assert json.loads(version.spec.config_json) == {"lr": 0.1, "name": "ünï"}
    assert json.loads(version.spec.input_schema_json)["properties"] == {
        "lr": {"type": "number"},
        "name": {"type": "string"},
    }
    assert version.create_time.seconds > 0
    for word in ("v0", "latest", "prod", "best"):
        assert await get(registry, f"jobs/train/versions/{word}") == version


async def test_equal_content_is_not_created_twice(registry: Registry) -> None:
    first = await registry.create("jobs/train", image({"a": 1, "b": 2}))
    same = image({"b": 2, "a": 1}, provenance=Provenance(git_branch="main"))
    again = await registry.create("jobs/train", same, author="another", aliases=["again"])
    assert not again.created
    assert again.job_version.name == first.job_version.name
    assert again.job_version.digest == first.job_version.digest
    assert list(again.job_version.aliases) == ["again", "latest"]
    other = await registry.create("jobs/train", image({"a": 1, "b": 2.0}))
    assert other.created
    assert (await get(registry, "jobs/train/versions/latest")).name == "jobs/train/versions/v1"
    back = await registry.create("jobs/train", image({"a": 1, "b": 2}), author="a third")
    assert not back.created, "any version is compared"
    assert back.job_version.name == first.job_version.name
    assert list(back.job_version.aliases) == ["again", "latest"], "it was sent last"
    assert (await get(registry, "jobs/train/versions/latest")).name == "jobs/train/versions/v0"
    [job] = (await registry.jobs.ListJobs(ListJobsRequest())).jobs
    assert (job.latest_version, job.version_count) == ("jobs/train/versions/v0", 2)


async def test_twenty_equal_versions_at_once_are_one(registry: Registry) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(registry.create("jobs/race", image({"x": 1}))) for _ in range(20)]
    answers = [call.result() for call in calls]
    assert {answer.job_version.name for answer in answers} == {"jobs/race/versions/v0"}
    assert sum(answer.created for answer in answers) == 1


async def test_twenty_different_versions_at_once_are_twenty(registry: Registry) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(registry.create("jobs/race", image({"x": n}), aliases=["newest", f"n{n}"]))
            for n in range(20)
        ]
    answers = [call.result() for call in calls]
    assert all(answer.created for answer in answers)
    assert {answer.job_version.name for answer in answers} == {f"jobs/race/versions/v{n}" for n in range(20)}
    latest = await get(registry, "jobs/race/versions/latest")
    assert latest.name == "jobs/race/versions/v19"
    assert "newest" in latest.aliases, "aliases move in the order of the versions"


async def test_code_needs_its_blob(registry: Registry) -> None:
    data = b"a tar, as far as the registry knows"
    spec = JobSpec(
        code=CodeSource(digest=digest_of(data), size_bytes=len(data)),
        entrypoint=["python", "train.py"],
        python=PythonEnvironment(version="3.11.7", requirements=["numpy==2.1.0"]),
    )
    error = await refused(registry.create("jobs/code", spec))
    assert (error.reason, error.metadata["digest"]) == ("BLOB_NOT_FOUND", digest_of(data))
    error = await refused(registry.jobs.ListJobVersions(ListJobVersionsRequest(parent="jobs/code")))
    assert error.reason == "JOB_NOT_FOUND", "a refused version leaves no job behind"

    await registry.upload(data)
    assert (await registry.create("jobs/code", spec)).created
    spec.code.size_bytes += 1
    error = await refused(registry.create("jobs/code", spec))
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "spec.code.size_bytes")


async def test_patch_and_wheels_need_their_blobs(registry: Registry) -> None:
    patch, wheel = b"diff --git a/x b/x", b"PK, as far as the registry knows"
    python = PythonEnvironment(
        version="3.11",
        wheels=[Wheel(filename="a-1-py3-none-any.whl", digest=digest_of(wheel), size_bytes=len(wheel))],
    )
    source = GitSource(remote="https://example.com/r", commit="a" * 40, patch_digest=digest_of(patch))
    spec = JobSpec(git=source, entrypoint=["x"], python=python)
    for data in (patch, wheel):
        error = await refused(registry.create("jobs/git", spec))
        assert (error.reason, error.metadata["digest"]) == ("BLOB_NOT_FOUND", digest_of(data))
        await registry.upload(data)
    assert (await registry.create("jobs/git", spec)).created
    spec.python.wheels[0].size_bytes += 1
    error = await refused(registry.create("jobs/git", spec))
    assert (error.reason, error.metadata["field"]) == (
        "INVALID_FIELD",
        "spec.python.wheels[a-1-py3-none-any.whl].size_bytes",
    )


async def test_all_that_is_wrong_is_told_at_once(registry: Registry) -> None:
    spec = JobSpec(
        git=GitSource(remote="x", commit="main"), inputs=[ArtifactInput(name="a", artifact="digits")]
    )
    error = await refused(registry.create("jobs/wrong", spec))
    assert error.reason == "INVALID_SPEC"
    assert set(error.metadata) == {
        "spec.git.remote",
        "spec.git.commit",
        "spec.entrypoint",
        "spec.inputs[0].artifact",
    }


async def test_git_source_is_kept_as_it_is(registry: Registry) -> None:
    spec = JobSpec(
        git=GitSource(remote="git@example.com:team/repo.git", commit="a" * 40, subfolder="train"),
        entrypoint=["bash", "-c", "echo 'ü'"],
        working_dir="src",
    )
    version = (await registry.create("jobs/git", spec)).job_version
    assert version.spec.git == spec.git
    assert list(version.spec.entrypoint) == list(spec.entrypoint)


@pytest.mark.one_postgres
@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (CreateJobVersionRequest(job="train", spec=image()), "job"),
        (CreateJobVersionRequest(job="jobs/../x", spec=image()), "job"),
        (CreateJobVersionRequest(job="jobs/x"), "spec.source"),
        (CreateJobVersionRequest(job="jobs/x", spec=image(), author="a" * 257), "author"),
        (CreateJobVersionRequest(job="jobs/x", spec=image(), aliases=["latest"]), "aliases"),
        (CreateJobVersionRequest(job="jobs/x", spec=image(), aliases=["v3"]), "aliases"),
        (CreateJobVersionRequest(job="jobs/x", spec=image(), aliases=["a/b"]), "aliases"),
        (CreateJobVersionRequest(job="jobs/x", spec=image(), request_id="no uuid"), "request_id"),
        (
            CreateJobVersionRequest(
                job="jobs/x", spec=JobSpec(image=ImageSource(reference="a"), config_json="[1]")
            ),
            "spec.config_json",
        ),
    ],
)
async def test_wrong_request_is_refused_by_field(
    registry: Registry, request_: CreateJobVersionRequest, field: str
) -> None:
    error = await refused(registry.jobs.CreateJobVersion(request_))
    assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", field)
    assert not (await registry.jobs.ListJobs(ListJobsRequest())).jobs


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("jobs/none/versions/v0", "JOB_NOT_FOUND"),
        ("jobs/one/versions/v1", "JOB_VERSION_NOT_FOUND"),
        ("jobs/one/versions/v99999999999999999999", "JOB_VERSION_NOT_FOUND"),
        ("jobs/one/versions/v00", "JOB_VERSION_NOT_FOUND"),
        ("jobs/one/versions/nightly", "JOB_VERSION_NOT_FOUND"),
        ("jobs/one", "INVALID_FIELD"),
    ],
)
async def test_what_is_not_there_is_said_by_name(registry: Registry, name: str, reason: str) -> None:
    await registry.create("jobs/one", image())
    assert (await refused(registry.jobs.GetJobVersion(GetJobVersionRequest(name=name)))).reason == reason
    alias = SetJobAliasRequest(request_id=new_id(), name=name, alias="x")
    assert (await refused(registry.jobs.SetJobAlias(alias))).reason == reason


async def test_alias_moves(registry: Registry) -> None:
    for n in range(3):
        await registry.create("jobs/train", image({"n": n}))
    for target, resolved in (("v2", "v2"), ("v0", "v0"), ("prod", "v0"), ("latest", "v2")):
        request = SetJobAliasRequest(request_id=new_id(), name=f"jobs/train/versions/{target}", alias="prod")
        version = (await registry.jobs.SetJobAlias(request)).job_version
        assert version.name == f"jobs/train/versions/{resolved}"
        assert "prod" in version.aliases
        assert (await get(registry, "jobs/train/versions/prod")).name == version.name
    assert list((await get(registry, "jobs/train/versions/v0")).aliases) == []
    for word in ("latest", "v0", "v007", "", "-x", "a b"):
        request = SetJobAliasRequest(request_id=new_id(), name="jobs/train/versions/v0", alias=word)
        error = await refused(registry.jobs.SetJobAlias(request))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "alias")


async def test_repeated_request_gets_the_first_answer(registry: Registry) -> None:
    request = CreateJobVersionRequest(request_id=new_id(), job="jobs/train", spec=image({"n": 1}))
    first = await registry.jobs.CreateJobVersion(request)
    await registry.create("jobs/train", image({"n": 2}))
    assert await registry.jobs.CreateJobVersion(request) == first
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(_create(registry, request)) for _ in range(8)]
    assert all(call.result() == first for call in calls)
    assert (await get(registry, "jobs/train/versions/latest")).name == "jobs/train/versions/v1"

    request.author = "somebody else"
    assert (await refused(registry.jobs.CreateJobVersion(request))).reason == "REQUEST_ID_REUSED"
    alias = SetJobAliasRequest(request_id=new_id(), name="jobs/train/versions/v0", alias="x")
    answer = await registry.jobs.SetJobAlias(alias)
    assert await registry.jobs.SetJobAlias(alias) == answer
    alias.alias = "y"
    assert (await refused(registry.jobs.SetJobAlias(alias))).reason == "REQUEST_ID_REUSED"


async def _create(registry: Registry, request: CreateJobVersionRequest) -> jobs_pb2.CreateJobVersionResponse:
    return await registry.jobs.CreateJobVersion(request)


async def test_jobs_are_listed_by_name_in_pages(registry: Registry) -> None:
    words = ["B", "a", "a-1", "a.b", "a_c", "z", "Z9"]
    for word in words:
        await registry.create(f"jobs/{word}", image())
    await registry.create("jobs/z", image({"n": 1}))
    seen: list[jobs_pb2.Job] = []
    token = ""
    while True:
        page = await registry.jobs.ListJobs(ListJobsRequest(page_size=3, page_token=token))
        seen += page.jobs
        token = page.next_page_token
        if not token:
            break
        assert len(page.jobs) == 3
    assert [job.name for job in seen] == sorted(f"jobs/{word}" for word in words)
    last = seen[-1]
    assert (last.latest_version, last.version_count) == ("jobs/z/versions/v1", 2)
    whole = await registry.jobs.ListJobs(ListJobsRequest(page_size=7))
    assert (len(whole.jobs), whole.next_page_token) == (7, "")


async def test_versions_are_listed_newest_first_in_pages(registry: Registry) -> None:
    for n in range(5):
        await registry.create("jobs/train", image({"n": n}), aliases=[f"n{n}"])
    first = await registry.jobs.ListJobVersions(ListJobVersionsRequest(parent="jobs/train", page_size=2))
    # A version made between two pages must not shift them.
    await registry.create("jobs/train", image({"n": 5}))
    names = [version.name for version in first.job_versions]
    token = first.next_page_token
    while token:
        page = await registry.jobs.ListJobVersions(
            ListJobVersionsRequest(parent="jobs/train", page_size=2, page_token=token)
        )
        names += [version.name for version in page.job_versions]
        token = page.next_page_token
    assert names == [f"jobs/train/versions/v{n}" for n in (4, 3, 2, 1, 0)]
    assert [list(version.aliases) for version in first.job_versions] == [["latest", "n4"], ["n3"]]


async def test_bad_pages_are_refused(registry: Registry) -> None:
    await registry.create("jobs/one", image({"n": 0}))
    await registry.create("jobs/one", image({"n": 1}))
    await registry.create("jobs/two", image())
    jobs_token = (await registry.jobs.ListJobs(ListJobsRequest(page_size=1))).next_page_token
    listing = ListJobVersionsRequest(parent="jobs/one", page_size=1)
    versions_token = (await registry.jobs.ListJobVersions(listing)).next_page_token
    assert jobs_token
    assert versions_token
    for bad in ("x", "ü", "AAAA", "a" * 10_000, versions_token, jobs_token[:-4] + "AAAA"):
        error = await refused(registry.jobs.ListJobs(ListJobsRequest(page_token=bad)))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "page_token")
    for parent, bad in (("jobs/one", "x"), ("jobs/one", jobs_token), ("jobs/two", versions_token)):
        request = ListJobVersionsRequest(parent=parent, page_token=bad)
        error = await refused(registry.jobs.ListJobVersions(request))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "page_token")
    error = await refused(registry.jobs.ListJobs(ListJobsRequest(page_size=-1)))
    assert error.metadata["field"] == "page_size"
    assert len((await registry.jobs.ListJobs(ListJobsRequest(page_size=2**31 - 1))).jobs) == 2


async def test_page_of_large_versions_fits_into_a_message(registry: Registry) -> None:
    for n in range(12):
        await registry.create("jobs/large", image({"n": n, "text": "x" * 1_000_000}))
    names: list[str] = []
    token = ""
    pages = 0
    while True:
        page = await registry.jobs.ListJobVersions(
            ListJobVersionsRequest(parent="jobs/large", page_size=1000, page_token=token)
        )
        pages += 1
        names += [version.name for version in page.job_versions]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"jobs/large/versions/v{n}" for n in range(11, -1, -1)]
    assert pages == 2
