"""Job versions, as the queue gets them from a real registry."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towline import names
from towline.errors import NotFound, Unavailable
from towline.rpc.channel import open_channel
from towline.v1 import jobs_pb2
from towline_queue.registry_client import RegistryClient, registry_client
from towline_testing.registry import Registry, registry_service, registry_settings

# What a client has from a registry is the same on each version.
pytestmark = pytest.mark.one_postgres

LATEST, FIRST = names.job_version("jobs/a/versions/latest"), names.job_version("jobs/a/versions/v0")


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        await service.create("jobs/a", spec("one"))
        yield service


def spec(reference: str) -> jobs_pb2.JobSpec:
    return jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=reference))


async def test_an_alias_is_asked_for_each_time_and_a_version_once(registry: Registry) -> None:
    async with registry_client(registry.address) as client:
        assert not client.keeps(FIRST)
        assert (await client.job_version(LATEST)).name == FIRST
        assert client.keeps(FIRST)
        assert not client.keeps(LATEST)
        kept = await client.job_version(FIRST)
        assert kept.spec.image.reference == "one"
        assert await client.job_version(FIRST) is kept
        await registry.create("jobs/a", spec("two"))
        assert (await client.job_version(LATEST)).spec.image.reference == "two"


async def test_what_is_kept_is_bounded(registry: Registry) -> None:
    await registry.create("jobs/a", spec("two"))
    size = (await registry.create("jobs/a", spec("two"))).job_version.ByteSize()
    async with open_channel(registry.address) as channel:
        client = RegistryClient(channel, registry.address, cache_bytes=size + size // 2)
        await client.job_version(FIRST)
        await client.job_version(LATEST)
        assert not client.keeps(FIRST)
        assert client.keeps(names.job_version("jobs/a/versions/v1"))


async def test_what_is_kept_is_asked_for_again_after_an_hour(registry: Registry) -> None:
    """The registry keeps what a deleted version needs for days; nobody may run it after that."""
    now = 0.0
    async with open_channel(registry.address) as channel:
        client = RegistryClient(channel, registry.address, clock=lambda: now)
        kept = await client.job_version(FIRST)
        now = 3599.0
        assert await client.job_version(FIRST) is kept
        now = 3601.0
        assert not client.keeps(FIRST)
        assert await client.job_version(FIRST) is not kept
        assert client.keeps(FIRST)


async def test_what_is_not_there_is_said_in_the_registrys_words(registry: Registry) -> None:
    async with registry_client(registry.address) as client:
        for name, reason in (
            ("jobs/none/versions/latest", "JOB_NOT_FOUND"),
            ("jobs/a/versions/v7", "JOB_VERSION_NOT_FOUND"),
            ("jobs/a/versions/best", "JOB_VERSION_NOT_FOUND"),
        ):
            with pytest.raises(NotFound) as caught:
                await client.job_version(names.job_version(name))
            assert caught.value.reason == reason


async def test_a_registry_that_does_not_answer_is_unavailable() -> None:
    async with registry_client("127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1") as caught:
            await client.job_version(LATEST)
        assert caught.value.reason == "REGISTRY_UNAVAILABLE"
