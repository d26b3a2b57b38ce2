"""Aliases of jobs and artifacts over gRPC, on real PostgreSQL: compare-and-set, and writers at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from towline_testing.registry import error_of, new_id, refused, registry_service, registry_settings
from towline_testing.registry_kinds import Kind


@pytest.fixture(params=["job", "artifact"])
async def kind(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> AsyncIterator[Kind]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        yield Kind(service, request.param)


async def test_an_alias_moves_only_from_where_it_is_expected(kind: Kind) -> None:
    for number in range(3):
        await kind.make(number)
    error = await refused(kind.set_alias("v0", "best", kind.name("v1")))
    assert (error.reason, error.metadata["version"]) == ("ALIAS_MOVED", "none")
    assert list((await kind.set_alias("v0", "best", "none")).aliases) == ["best"]
    error = await refused(kind.set_alias("v1", "best", "none"))
    assert (error.reason, error.metadata["version"]) == ("ALIAS_MOVED", kind.name("v0"))
    error = await refused(kind.set_alias("v1", "best", kind.name("v2")))
    assert (error.reason, error.metadata["version"]) == ("ALIAS_MOVED", kind.name("v0"))
    assert (await kind.get("best")).name == kind.name("v0"), "what was refused moved nothing"
    assert list((await kind.set_alias("v1", "best", kind.name("v0"))).aliases) == ["best"]
    assert (await kind.set_alias("latest", "best")).name == kind.name("v2"), "without: from anywhere"
    # The same request again is answered as it was, though the alias is not where it was expected any more.
    again = new_id()
    first = await kind.set_alias("v0", "best", kind.name("v2"), request_id=again)
    assert await kind.set_alias("v0", "best", kind.name("v2"), request_id=again) == first


async def test_of_many_writers_of_one_alias_one_wins(kind: Kind) -> None:
    count = 8
    for number in range(count):
        await kind.make(number)
    outcomes: list[object] = []

    async def write(version: int, expected: str) -> None:
        try:
            outcomes.append((await kind.set_alias(f"v{version}", "prod", expected)).name)
        except grpc.RpcError as failure:
            outcomes.append(error_of(failure).reason)

    expected = "none"
    for _ in range(5):
        outcomes.clear()
        async with asyncio.TaskGroup() as group:
            for version in range(count):
                if kind.name(f"v{version}") != expected:  # that would leave it where others expect it
                    group.create_task(write(version, expected))
        assert outcomes.count("ALIAS_MOVED") == len(outcomes) - 1
        [winner] = [outcome for outcome in outcomes if outcome != "ALIAS_MOVED"]
        assert (await kind.get("prod")).name == winner
        expected = str(winner)


async def test_many_readers_and_writers_never_see_an_alias_nowhere(kind: Kind) -> None:
    """Two writers that each read, then move from what they read, lose no move: it is a counter."""
    for number in range(10):
        await kind.make(number)
    await kind.set_alias("v0", "counter")
    moved: list[int] = []

    async def count_up() -> None:
        while True:
            at = int((await kind.get("counter")).name.rpartition("/v")[2])
            if at == 9:
                return
            try:
                await kind.set_alias(f"v{at + 1}", "counter", kind.name(f"v{at}"))
            except grpc.RpcError as failure:
                assert error_of(failure).reason == "ALIAS_MOVED"
            else:
                moved.append(at + 1)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(count_up())
    assert sorted(moved) == list(range(1, 10))  # what moved it first may be answered later


async def test_an_alias_goes_and_its_version_stays(kind: Kind) -> None:
    await kind.make(0, aliases=["best", "other"])
    await kind.delete_alias("best")
    assert list((await kind.get("v0")).aliases) == ["latest", "other"]
    not_found = f"{kind.word.upper()}_VERSION_NOT_FOUND"
    assert (await refused(kind.get("best"))).reason == not_found
    assert (await refused(kind.delete_alias("best"))).reason == not_found
    for word in ("latest", "v0", "v7"):
        error = await refused(kind.delete_alias(word))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "name")


async def test_what_is_expected_is_a_version_of_the_same(kind: Kind) -> None:
    await kind.make(0, aliases=["best"])
    for wrong in ("v0", "None", f"{kind.word}s/other/versions/v0", kind.name("best"), kind.name("v01"), "x"):
        error = await refused(kind.set_alias("v0", "new", wrong))
        assert (error.reason, error.metadata["field"]) == ("INVALID_FIELD", "expected")
