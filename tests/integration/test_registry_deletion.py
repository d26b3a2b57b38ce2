"""How versions of jobs and artifacts are deleted, on real PostgreSQL and with a real queue service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from sqlalchemy import text

from towline.service.postgres import transaction
from towline.v1 import jobs_pb2
from towline_testing.both_services import GRACE, Both, both_services
from towline_testing.registry import error_of, new_id, refused, registry_service, registry_settings
from towline_testing.registry_kinds import Kind


@pytest.fixture
async def both(database_url: str, tmp_path: Path) -> AsyncIterator[Both]:
    async with both_services(database_url, tmp_path) as services:
        yield services


@pytest.fixture(params=["job", "artifact"])
def kind(request: pytest.FixtureRequest, both: Both) -> Kind:
    return Kind(both.registry, request.param)


def not_found(kind: Kind, what: str = "_VERSION") -> str:
    return f"{kind.word.upper()}{what}_NOT_FOUND"


async def test_a_deleted_version_is_unknown(kind: Kind) -> None:
    for number in range(3):
        await kind.make(number)
    again = new_id()
    for _ in range(2):
        await kind.delete("v1", request_id=again)
    for call in (kind.get("v1"), kind.delete("v1"), kind.set_alias("v1", "best")):
        assert (await refused(call)).reason == not_found(kind)
    assert await kind.versions() == ["v2", "v0"]
    [listed] = await kind.listed()
    assert (listed.latest_version, listed.version_count) == (kind.name("v2"), 3)
    assert (await refused(kind.delete("latest"))).metadata["field"] == "name"
    assert (await refused(kind.delete("v9"))).reason == not_found(kind)


async def test_latest_points_at_the_newest_left_and_numbers_are_not_given_again(kind: Kind) -> None:
    for number in range(3):
        await kind.make(number)
    await kind.make(0)
    assert (await kind.get("latest")).name == kind.name("v0")
    await kind.delete("v0")
    assert (await kind.get("latest")).name == kind.name("v2")
    await kind.delete("v2")
    await kind.delete("v1")
    assert await kind.listed() == []
    for call in (kind.get("latest"), kind.get("v0"), kind.versions(), kind.set_retention(keep_newest=1)):
        assert (await refused(call)).reason == not_found(kind, "")
    made = await kind.make(0)
    assert (made.name, list(made.aliases)) == (kind.name("v3"), ["latest"])
    assert await kind.versions() == ["v3"]


async def test_an_alias_keeps_a_version(kind: Kind) -> None:
    await kind.make(0, aliases=["prod", "best"])
    await kind.make(1)
    error = await refused(kind.delete("v0"))
    assert (error.reason, error.metadata["aliases"]) == ("IN_USE", "best, prod")
    await kind.delete_alias("prod")
    await kind.set_alias("v1", "best", kind.name("v0"))
    await kind.delete("v0")


async def test_a_run_keeps_its_job_version(both: Both) -> None:
    jobs = Kind(both.registry, "job")
    for number in range(2):
        await jobs.make(number)
    run = await both.queue.submit(jobs.name("v0"))
    error = await refused(jobs.delete("v0"))
    assert (error.reason, error.metadata["run"]) == ("IN_USE", run.name)
    await jobs.delete("v1")
    assert await jobs.versions() == ["v0"]


async def test_without_the_queue_service_no_job_version_is_deleted(database_url: str, tmp_path: Path) -> None:
    for address, code, reason in (
        ("", grpc.StatusCode.FAILED_PRECONDITION, "NO_QUEUE_ADDRESS"),
        ("127.0.0.1:1", grpc.StatusCode.UNAVAILABLE, "QUEUE_UNAVAILABLE"),
    ):
        settings = registry_settings(database_url, tmp_path, queue_address=address)
        async with registry_service(settings) as registry:
            jobs, artifacts = Kind(registry, "job"), Kind(registry, "artifact")
            await jobs.make(0)
            with pytest.raises(grpc.RpcError) as failure:
                await jobs.delete("v0")
            assert (failure.value.code(), error_of(failure.value).reason) == (code, reason)
            assert (await jobs.get("v0")).name == jobs.name("v0")
            if not address:
                assert "TOWLINE_REGISTRY_QUEUE_ADDRESS" in error_of(failure.value).message
                assert (await refused(jobs.set_retention(keep_newest=1))).reason == reason
                assert not (await jobs.set_retention()).HasField("retention")
            latest = await artifacts.make(0)
            await artifacts.delete(latest.name.rpartition("/")[2])


async def test_a_run_keeps_what_it_reads(both: Both) -> None:
    data = Kind(both.registry, "artifact")
    for number in range(3):
        await data.make(number)
    await both.record([data.name("v0")], "runs/a", "runs/b", job_version="jobs/x/versions/v0")
    error = await refused(data.delete("v0"))
    assert (error.reason, error.metadata["run"]) == ("IN_USE", "runs/b")
    assert await data.versions() == ["v2", "v1", "v0"], "what was refused is as it was"
    await data.delete("v1")
    error = await refused(both.record([data.name("v0"), data.name("v1")], "runs/c"))
    assert error.reason == "ARTIFACT_VERSION_NOT_FOUND"


async def test_a_use_by_a_run_that_never_came_to_be_keeps_nothing(both: Both) -> None:
    """Uses are noted before runs are stored, and that may fail."""
    jobs, data = Kind(both.registry, "job"), Kind(both.registry, "artifact")
    await jobs.make(0)
    run = (await both.queue.submit(jobs.name("v0"))).name
    for number in range(3):
        await data.make(number)
    await both.record([data.name("v0")], run)
    await both.record([data.name("v0"), data.name("v1")], *[f"runs/lost-{number}" for number in range(3)])
    error = await refused(data.delete("v1"))
    assert (error.reason, error.metadata["run"]) == ("IN_USE", "runs/lost-2"), "it may be stored just now"
    async with transaction(both.engine) as connection:
        await connection.execute(
            text("UPDATE registry.artifact_uses SET create_time = now() - interval '61 minutes'")
        )
    error = await refused(data.delete("v0"))
    assert (error.reason, error.metadata["run"]) == ("IN_USE", run)
    await data.delete("v1")
    await data.set_retention(keep_newest=1)
    await both.round()
    assert await data.versions() == ["v2", "v0"]


async def test_a_job_keeps_what_it_reads(both: Both) -> None:
    data = Kind(both.registry, "artifact")
    for number in range(4):
        await data.make(number)
    await data.set_alias("v1", "best")

    async def job(name: str, *artifacts: str) -> jobs_pb2.JobVersion:
        spec = jobs_pb2.JobSpec(
            image=jobs_pb2.ImageSource(reference="alpine:3"),
            inputs=[
                jobs_pb2.ArtifactInput(name=f"n{index}", artifact=artifact)
                for index, artifact in enumerate(artifacts)
            ],
        )
        return (await both.registry.create(name, spec)).job_version

    for name, reason in (
        ("artifacts/none/versions/v0", "ARTIFACT_NOT_FOUND"),
        (data.name("v9"), "ARTIFACT_VERSION_NOT_FOUND"),
        (data.name("worst"), "ARTIFACT_VERSION_NOT_FOUND"),
    ):
        error = await refused(job("jobs/wrong", data.name("v0"), name))
        assert (error.reason, error.metadata["field"]) == (reason, "spec.inputs[n1].artifact")

    error = await refused(job("jobs/wrong", data.name("v8"), data.name("v0"), data.name("v9")))
    assert "spec.inputs[n0].artifact: " in error.message
    assert "spec.inputs[n2].artifact: " in error.message

    await job("jobs/by-number", data.name("v0"), data.name("v0"))
    await job("jobs/by-alias", data.name("best"))
    await job("jobs/by-latest", data.name("latest"))
    for version, reader in (("v0", "by-number"), ("v3", "by-latest")):
        error = await refused(data.delete(version))
        assert (error.reason, error.metadata["job_version"]) == ("IN_USE", f"jobs/{reader}/versions/v0")
    assert (await refused(data.delete("v1"))).metadata["aliases"] == "best"
    await data.delete("v2")
    await data.make(4)
    await data.delete("v3")
    request = jobs_pb2.DeleteJobVersionRequest(request_id=new_id(), name="jobs/by-number/versions/v0")
    await both.registry.jobs.DeleteJobVersion(request)
    await data.delete("v0")


async def test_what_is_left_of_a_deleted_version_goes_after_the_grace(both: Both, kind: Kind) -> None:
    for number in range(2):
        await kind.make(number)
    owners = "SELECT owner FROM registry.blob_references ORDER BY owner"
    versions = f"SELECT number FROM registry.{kind.word}_versions ORDER BY number"
    before = await both.rows(owners)
    await kind.delete("v0")
    await both.round(GRACE - timedelta(minutes=1))
    assert await both.rows(versions) == [(0,), (1,)]
    assert await both.rows(owners) == before
    await both.round(GRACE + timedelta(minutes=1))
    assert await both.rows(versions) == [(1,)]
    assert await both.rows(owners) == [each for each in before if each != (kind.name("v0"),)]
    await kind.delete("v1")
    await both.round(GRACE + timedelta(minutes=1))
    assert await both.rows(versions) == []
    assert (await kind.make(0)).name == kind.name("v2")


async def test_a_run_that_is_submitted_meanwhile_brings_its_job_version_back(both: Both) -> None:
    """The queue service remembers job versions, so it takes a submission of one that was deleted."""
    jobs = Kind(both.registry, "job")
    version = await jobs.make(0)
    wrong = both.queue.submit(version.name, config_json='{"unknown": 1}')
    assert (await refused(wrong)).reason == "INVALID_CONFIG", "so it has been looked up, and there is no run"
    await jobs.delete("v0")
    run = await both.queue.submit(version.name)
    assert run.job_version == version.name
    await both.round(GRACE - timedelta(minutes=1))
    assert await jobs.listed() == []
    await both.round(GRACE + timedelta(minutes=1))
    assert await jobs.get("v0") == version
    assert (await refused(jobs.delete("v0"))).metadata["run"] == run.name
    await both.round(2 * GRACE)
    assert await jobs.versions() == ["v0"]


async def test_with_a_job_version_comes_back_what_it_reads(both: Both) -> None:
    jobs, data = Kind(both.registry, "job"), Kind(both.registry, "artifact")
    await data.make(0)
    spec = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference="alpine:3"))
    spec.inputs.add(name="data", artifact=data.name("v0"))
    version = (await both.registry.create(jobs.series, spec)).job_version
    run = await both.queue.submit(version.name)
    # As if the run were not stored yet, so that its use is not settled either.
    async with transaction(both.engine) as connection:
        await connection.execute(text("DELETE FROM registry.artifact_uses"))
        await connection.execute(text("UPDATE queue.runs SET job_version = ''"))
    await jobs.delete("v0")
    await data.delete("v0")
    async with transaction(both.engine) as connection:
        await connection.execute(
            text("UPDATE queue.runs SET job_version = :old WHERE name = :run"),
            {"old": version.name, "run": run.name},
        )
    for _ in range(2):
        await both.round(GRACE + timedelta(minutes=1))
        assert await jobs.get("v0") == version
        assert (await data.get("v0")).name == data.name("v0")


async def race(*calls: Callable[[], object]) -> list[str]:
    """Make calls at once; give "" for each that went well, else the reason of its error."""

    async def outcome(call: Callable[[], object]) -> str:
        try:
            await call()  # type: ignore[misc]
        except grpc.RpcError as failure:
            return error_of(failure).reason
        return ""

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(call)) for call in calls]
    return [task.result() for task in tasks]


async def test_a_version_is_never_deleted_under_who_begins_to_use_it(both: Both) -> None:
    data = Kind(both.registry, "artifact")
    image = jobs_pb2.ImageSource(reference="alpine:3")
    for number in range(12):
        await data.make(number)
        version = data.name(f"v{number}")
        reader = jobs_pb2.ArtifactInput(name="n", artifact=version)
        spec = jobs_pb2.JobSpec(image=image, inputs=[reader])
        deleted, used, created = await race(
            lambda number=number: data.delete(f"v{number}"),
            lambda version=version, number=number: both.record([version], f"runs/{number}"),
            lambda spec=spec: both.registry.create("jobs/reader", spec),
        )
        if deleted:
            assert (deleted, "" in (used, created)) == ("IN_USE", True)
        else:
            assert used in ("ARTIFACT_VERSION_NOT_FOUND", "ARTIFACT_NOT_FOUND")
            assert created in ("ARTIFACT_VERSION_NOT_FOUND", "ARTIFACT_NOT_FOUND")


async def test_no_run_is_ever_without_its_job_version(both: Both) -> None:
    jobs = Kind(both.registry, "job")
    submitted: set[str] = set()
    for number in range(10):
        version = (await jobs.make(number)).name
        if number % 2:  # the queue service remembers it
            await refused(both.queue.submit(version, config_json='{"unknown": 1}'))
        _, ran = await race(
            lambda number=number: jobs.delete(f"v{number}"),
            lambda version=version: both.queue.submit(version),
        )
        if not ran:
            submitted.add(f"v{number}")
    await both.round(GRACE + timedelta(minutes=1))
    left = set(await jobs.versions()) if submitted else set()
    assert submitted <= left
    rows = await both.rows("SELECT number FROM registry.job_versions WHERE delete_time IS NOT NULL")
    assert rows == [], "what is deleted and not run is gone"
