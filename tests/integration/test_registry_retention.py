"""Versions that no rule keeps are deleted by themselves, by a told time, with a real queue service."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text

from towline.service.postgres import transaction
from towline.v1 import jobs_pb2
from towline_testing.both_services import GRACE, Both, both_services
from towline_testing.registry import new_id, refused
from towline_testing.registry_kinds import Kind

DAY = timedelta(days=1)


@pytest.fixture
async def both(database_url: str, tmp_path: Path) -> AsyncIterator[Both]:
    async with both_services(database_url, tmp_path) as services:
        yield services


@pytest.fixture(params=["job", "artifact"])
def kind(request: pytest.FixtureRequest, both: Both) -> Kind:
    return Kind(both.registry, request.param)


def span(length: timedelta) -> Duration:
    made = Duration()
    made.FromTimedelta(length)
    return made


async def age(both: Both, kind: Kind, version: int, days: int) -> None:
    """Make a version older than it is."""
    statement = (
        f"UPDATE registry.{kind.word}_versions"
        " SET create_time = create_time - make_interval(days => :days) WHERE number = :number"
    )
    async with transaction(both.engine) as connection:
        await connection.execute(text(statement), {"days": days, "number": version})


async def test_the_newest_are_kept(both: Both, kind: Kind) -> None:
    for number in range(5):
        await kind.make(number, aliases=["prod"] if number == 1 else [])
        await kind.make(number, f"{kind.word}s/without-rules")
    listed = await kind.set_retention(keep_newest=2)
    assert listed.retention.keep_newest == 2
    assert [each.retention.keep_newest for each in await kind.listed()] == [2, 0]
    await kind.make(2)  # sent last: "latest" keeps it
    await both.round()
    assert await kind.versions() == ["v4", "v3", "v2", "v1"]
    await kind.make(4)
    await kind.delete_alias("prod")
    await both.round()
    assert await kind.versions() == ["v4", "v3"]
    assert [each.version_count for each in await kind.listed()] == [5, 5]


async def test_the_young_are_kept_and_any_rule_is_enough(both: Both, kind: Kind) -> None:
    for number in range(4):
        await kind.make(number)
        await age(both, kind, number, 10 - number)
    await kind.set_retention(keep_for=span(8.5 * DAY), keep_newest=1)
    await both.round()
    assert await kind.versions() == ["v3", "v2"]
    await kind.set_retention(keep_for=span(8.5 * DAY))
    await both.round(DAY)
    assert await kind.versions() == ["v3"]
    assert not (await kind.set_retention()).HasField("retention")
    await kind.make(4)
    await both.round(100 * DAY)
    assert await kind.versions() == ["v4", "v3"]


async def test_what_runs_refer_to_is_kept(both: Both) -> None:
    jobs, data = Kind(both.registry, "job"), Kind(both.registry, "artifact")
    for each in (jobs, data):
        for number in range(4):
            await each.make(number)
        await each.set_retention(keep_newest=1)
    run = await both.queue.submit(jobs.name("v1"))
    await both.record([data.name("v0")], run.name)
    spec = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference="alpine:3"))
    spec.inputs.add(name="data", artifact=data.name("v2"))
    await both.registry.create("jobs/reader", spec)
    await both.round()
    assert await jobs.versions() == ["v3", "v1"]
    assert await data.versions() == ["v3", "v2", "v0"]
    await both.round(GRACE + DAY)
    assert await jobs.versions() == ["v3", "v1"]


async def test_versions_in_use_do_not_hold_up_others(both: Both) -> None:
    """What was in use is not asked about again for a day."""
    jobs = Kind(both.registry, "job")
    for number in range(3):
        await jobs.make(number)
    await jobs.set_retention(keep_newest=1)
    run = await both.queue.submit(jobs.name("v0"))
    await both.round()
    [(looked,)] = await both.rows("SELECT kept_time FROM registry.job_versions WHERE number = 0")
    assert looked
    async with transaction(both.engine) as connection:
        await connection.execute(
            text("UPDATE queue.runs SET job_version = 'jobs/b/versions/v0' WHERE name = :run"),
            {"run": run.name},
        )
    await both.round(0.9 * DAY)
    assert await jobs.versions() == ["v2", "v0"]
    await both.round(1.1 * DAY)
    assert await jobs.versions() == ["v2"]


async def test_rounds_of_many_replicas_at_once(both: Both, kind: Kind) -> None:
    for number in range(8):
        await kind.make(number)
    await kind.set_retention(keep_newest=3)
    for after in (timedelta(), GRACE + DAY):
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(both.round(after))
    assert await kind.versions() == ["v7", "v6", "v5"]
    counted = f"SELECT count(*) FROM registry.{kind.word}_versions"
    assert await both.rows(counted) == [(3,)]


async def test_answers_are_kept_for_a_week(both: Both, kind: Kind) -> None:
    again = new_id()
    first = await kind.make(0, request_id=again)
    await kind.make(1)
    await both.round(7 * DAY - timedelta(minutes=1))
    assert await kind.make(0, request_id=again) == first
    await both.round(7 * DAY + timedelta(minutes=1))
    assert await both.rows("SELECT method FROM registry.requests") == []
    assert "latest" in (await kind.make(0, request_id=again)).aliases


async def test_rules_that_would_keep_nothing_are_refused(kind: Kind) -> None:
    await kind.make(0)
    for rules, field in (
        ({"keep_newest": -1}, "retention.keep_newest"),
        ({"keep_newest": 0}, "retention"),
        ({"keep_for": span(timedelta())}, "retention.keep_for"),
        ({"keep_for": span(-DAY)}, "retention.keep_for"),
        ({"keep_for": Duration(seconds=2**40)}, "retention.keep_for"),
    ):
        error = await refused(kind.set_retention(**rules))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", field)
    [listed] = await kind.listed()
    assert not listed.HasField("retention")
