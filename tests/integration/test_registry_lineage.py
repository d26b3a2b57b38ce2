"""Who made an artifact version and who has read it, over gRPC, on real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towline.v1.artifacts_pb2 import (
    ArtifactVersion,
    GetArtifactLineageRequest,
    GetArtifactLineageResponse,
    RecordArtifactUsesRequest,
)
from towline_testing.registry import refused, registry_service, registry_settings
from towline_testing.registry_kinds import Kind

JOB = "jobs/train/versions/v0"


@pytest.fixture
async def data(database_url: str, tmp_path: Path) -> AsyncIterator[Kind]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        await Kind(service, "job").make(0, "jobs/train")
        yield Kind(service, "artifact")


async def record(data: Kind, versions: list[str], *runs: str, job_version: str = JOB) -> None:
    request = RecordArtifactUsesRequest(runs=runs, job_version=job_version, artifact_versions=versions)
    await data.registry.artifacts.RecordArtifactUses(request)


async def lineage(data: Kind, name: str, **fields: object) -> GetArtifactLineageResponse:
    return await data.registry.artifacts.GetArtifactLineage(GetArtifactLineageRequest(name=name, **fields))


def named(versions: list[ArtifactVersion]) -> list[str]:
    return [version.name.removeprefix("artifacts/") for version in versions]


async def test_lineage_goes_both_ways(data: Kind) -> None:
    raw = await data.make(0, "artifacts/raw")
    extra = await data.make(0, "artifacts/extra")
    await record(data, [raw.name, extra.name], "runs/prepare")
    clean = await data.make(1, "artifacts/clean", producer_run="runs/prepare", producer_job_version=JOB)
    await record(data, [clean.name], "runs/train-1", "runs/train-2")
    for run in ("runs/train-1", "runs/train-2"):
        await data.make(int(run[-1]), "artifacts/model", producer_run=run)

    answer = await lineage(data, "artifacts/clean/versions/latest")
    assert answer.artifact_version.name == clean.name
    assert answer.artifact_version.producer_run == "runs/prepare"
    assert not answer.artifact_version.files
    assert named(answer.producer_inputs) == ["extra/versions/v0", "raw/versions/v0"]
    assert [(use.run, use.job_version) for use in answer.uses] == [
        ("runs/train-2", JOB),
        ("runs/train-1", JOB),
    ]
    assert all(use.create_time.seconds for use in answer.uses)
    assert named(answer.descendants) == ["model/versions/v1", "model/versions/v0"]

    first = await lineage(data, raw.name)
    assert (named(first.producer_inputs), named(first.descendants)) == ([], ["clean/versions/v0"])
    last = await lineage(data, "artifacts/model/versions/v0")
    assert (named(last.producer_inputs), list(last.uses)) == (["clean/versions/v0"], [])


async def test_a_recording_made_and_read_too(data: Kind) -> None:
    raw = await data.make(0, "artifacts/raw")
    await record(data, [raw.name])
    await data.make(1, "artifacts/model", producer_job_version=JOB)
    # A run of the recorded job is another matter.
    await data.make(2, "artifacts/model", producer_run="runs/a", producer_job_version=JOB)
    answer = await lineage(data, raw.name)
    assert [(use.run, use.job_version) for use in answer.uses] == [("", JOB)]
    assert named(answer.descendants) == ["model/versions/v0"]
    made = await lineage(data, "artifacts/model/versions/v0")
    assert named(made.producer_inputs) == ["raw/versions/v0"]
    assert named((await lineage(data, "artifacts/model/versions/v1")).producer_inputs) == []


async def test_repeating_changes_nothing(data: Kind) -> None:
    versions = [(await data.make(number)).name for number in range(3)]
    runs = [f"runs/r{number}" for number in range(50)]

    async def again(some: list[str]) -> None:
        await record(data, versions, *some)

    async with asyncio.TaskGroup() as group:
        for start in range(8):
            group.create_task(again(runs[start:] + runs[:start]))
            group.create_task(again(runs[::-1]))
    for version in versions:
        answer = await lineage(data, version, page_size=1000)
        assert sorted(use.run for use in answer.uses) == sorted(runs)


async def test_uses_come_in_pages(data: Kind) -> None:
    version, other = (await data.make(0)).name, (await data.make(1)).name
    for number in range(5):
        await record(data, [version], f"runs/{number}")
        await data.make(number, "artifacts/made", producer_run=f"runs/{number}")
    seen: list[str] = []
    token = ""
    while True:
        page = await lineage(data, version, page_size=2, page_token=token)
        seen += [use.run for use in page.uses]
        assert len(page.descendants) == len(page.uses), "of the runs on this page"
        if not (token := page.next_page_token):
            break
        await record(data, [version], f"runs/later-{len(seen)}")
        kept = token
    assert seen == [f"runs/{number}" for number in (4, 3, 2, 1, 0)]
    assert (await refused(lineage(data, other, page_token=kept))).metadata["field"] == "page_token"


async def test_many_runs_at_once(data: Kind) -> None:
    versions = [(await data.make(number)).name for number in range(64)]
    await record(data, versions, *[f"runs/r{number}" for number in range(1000)])
    answer = await lineage(data, versions[-1], page_size=1000)
    assert (len(answer.uses), answer.next_page_token) == (1000, "")


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"artifact_versions": ["artifacts/a/versions/v0", "artifacts/a/versions/v7"]}, "VERSION", None),
        ({"artifact_versions": ["artifacts/b/versions/v0"]}, "ARTIFACT", None),
        ({"artifact_versions": ["artifacts/a/versions/latest"]}, "FIELD", "artifact_versions"),
        ({"artifact_versions": ["a:v0"]}, "FIELD", "artifact_versions"),
        ({"artifact_versions": []}, "FIELD", "artifact_versions"),
        ({"artifact_versions": ["artifacts/a/versions/v0"] * 65}, "FIELD", "artifact_versions"),
        ({"runs": ["mine"]}, "FIELD", "runs"),
        ({"runs": [f"runs/{number}" for number in range(1001)]}, "FIELD", "runs"),
        ({"runs": [], "job_version": ""}, "FIELD", "job_version"),
        ({"job_version": "jobs/train/versions/latest"}, "FIELD", "job_version"),
        ({"runs": [], "job_version": "jobs/none/versions/v0"}, "JOB", None),
    ],
)
async def test_wrong_uses_are_refused(data: Kind, fields: dict, reason: str, field: str | None) -> None:
    await data.make(0)
    values = {"runs": ["runs/a"], "job_version": JOB, "artifact_versions": [data.name("v0")]} | fields
    asked = RecordArtifactUsesRequest(**values)
    error = await refused(data.registry.artifacts.RecordArtifactUses(asked))
    reasons = {
        "VERSION": "ARTIFACT_VERSION_NOT_FOUND",
        "ARTIFACT": "ARTIFACT_NOT_FOUND",
        "JOB": "JOB_NOT_FOUND",
        "FIELD": "INVALID_FIELD",
    }
    assert (error.reason, error.metadata.get("field")) == (reasons[reason], field)
    assert not (await lineage(data, data.name("v0"))).uses, "all of them or none"


async def test_what_is_not_there_has_no_lineage(data: Kind) -> None:
    await data.make(0)
    assert (await refused(lineage(data, "artifacts/none/versions/v0"))).reason == "ARTIFACT_NOT_FOUND"
    assert (await refused(lineage(data, data.name("v1")))).reason == "ARTIFACT_VERSION_NOT_FOUND"
    assert (await refused(lineage(data, "a:v0"))).metadata["field"] == "name"
