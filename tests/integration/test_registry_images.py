"""ImageService over gRPC, on real PostgreSQL: who builds an image, and who gets it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast
from uuid import uuid4

import grpc
import pytest
from sqlalchemy import event, text

from towline.errors import Aborted, InvalidArgument, NotFound
from towline.rpc.channel import open_channel
from towline.service.postgres import connecting, transaction
from towline.v1 import images_pb2, images_pb2_grpc, runs_pb2
from towline_registry.servicers.images import BUILD_TTL, ImageServicer
from towline_testing.registry import Registry, digest_of, refused, registry_service, registry_settings
from towline_testing.waiting import eventually_async

REPOSITORY = "images.example:5000/towline"
REFERENCE = f"{REPOSITORY}@{digest_of(b'manifest')}"
KEY = images_pb2.ImageKey(repository=REPOSITORY, digest=digest_of(b"content"))
FAILURE = runs_pb2.Failure(
    cause=runs_pb2.FAILURE_CAUSE_IMAGE_BUILD, message="No such package.", log_tail="no"
)


class Agent:
    """One that asks for images."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self.stub = images_pb2_grpc.ImageServiceStub(channel)
        self.name = f"agents/{name}"
        self.build_id = str(uuid4())
        self.heard: list[images_pb2.ObtainImageResponse] = []

    async def obtain(self, key: images_pb2.ImageKey = KEY) -> images_pb2.ObtainImageResponse:
        """Ask until it is known what to do; what comes before is `heard`."""
        request = images_pb2.ObtainImageRequest(key=key, builder=self.name, build_id=self.build_id)
        async for response in self.stub.ObtainImage(request, timeout=30):
            self.heard.append(response)
        return self.heard[-1]

    async def lease(self) -> int:
        response = await self.obtain()
        assert response.WhichOneof("state") == "lease", response
        assert response.lease.ttl.ToTimedelta() == BUILD_TTL
        return response.lease.epoch

    async def renew(self, epoch: int, detail: str = "") -> None:
        request = images_pb2.RenewImageBuildRequest(key=KEY, epoch=epoch, detail=detail)
        assert (await self.stub.RenewImageBuild(request)).ttl.ToTimedelta() == BUILD_TTL

    async def finish(self, epoch: int, **outcome: object) -> None:
        await self.stub.FinishImageBuild(
            images_pb2.FinishImageBuildRequest(key=KEY, epoch=epoch, size_bytes=5, **outcome)
        )

    async def forget(self, reference: str = REFERENCE, key: images_pb2.ImageKey = KEY) -> None:
        await self.stub.ForgetImage(images_pb2.ForgetImageRequest(key=key, reference=reference))


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    async with registry_service(registry_settings(database_url, tmp_path)) as service:
        yield service


@pytest.fixture
def agents(registry: Registry) -> list[Agent]:
    return [Agent(registry.channel, f"node-{number}") for number in range(8)]


async def heard(condition: Callable[[], bool]) -> None:
    """Wait until agents have heard what they should."""

    async def holds() -> bool:
        return condition()

    await eventually_async(holds)


async def expire(database_url: str) -> None:
    """Let the time of all build leases be up."""
    async with connecting(database_url) as engine, transaction(engine) as connection:
        await connection.execute(
            text(
                "UPDATE registry.images SET expire_time = now() - interval '1 s' "
                "WHERE expire_time IS NOT NULL"
            )
        )


async def test_of_many_that_ask_at_once_one_builds_and_all_get_its_image(agents: list[Agent]) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(agent.obtain()) for agent in agents]
        await heard(lambda: all(agent.heard for agent in agents))
        (builder,) = [agent for agent in agents if agent.heard[0].HasField("lease")]
        await builder.renew(1, "installing torch")
        await heard(
            lambda: all(
                agent.heard[-1].building.detail == "installing torch"
                for agent in agents
                if agent is not builder
            )
        )
        await builder.finish(1, reference=REFERENCE)
    for agent, task in zip(agents, asked, strict=True):
        if agent is builder:
            continue
        image = task.result().image
        assert (image.reference, image.builder, image.size_bytes) == (REFERENCE, builder.name, 5)
        assert {response.building.builder for response in agent.heard[:-1]} == {builder.name}
    assert (await builder.obtain()).image.reference == REFERENCE


async def test_who_lost_the_answer_gets_the_lease_again(agents: list[Agent]) -> None:
    assert await agents[0].lease() == await agents[0].lease() == 1


async def test_a_builder_that_is_silent_is_replaced_and_cannot_speak_any_more(
    agents: list[Agent], database_url: str
) -> None:
    dead, next_one = agents[:2]
    assert await dead.lease() == 1
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(next_one.lease())
        await heard(lambda: bool(next_one.heard))
        await expire(database_url)
    assert waiting.result() == 2
    for late in (dead.renew(1), dead.finish(1, reference=REFERENCE), dead.finish(1)):
        error = await refused(late)
        assert isinstance(error, Aborted)
        assert error.reason == "STALE_EPOCH"
    await next_one.finish(2, reference=REFERENCE)
    assert (await dead.obtain()).image.builder == next_one.name


async def test_a_builder_that_was_silent_goes_on_where_nobody_took_its_lease(
    agents: list[Agent], database_url: str
) -> None:
    epoch = await agents[0].lease()
    await expire(database_url)
    await agents[0].renew(epoch)
    await agents[0].finish(epoch, reference=REFERENCE)
    assert (await agents[1].obtain()).image.reference == REFERENCE


async def test_a_failure_is_for_those_who_waited_and_who_asks_later_tries_again(agents: list[Agent]) -> None:
    builder, waiting, later = agents[:3]
    epoch = await builder.lease()
    async with asyncio.TaskGroup() as group:
        told = group.create_task(waiting.obtain())
        await heard(lambda: bool(waiting.heard))
        await builder.finish(epoch, failure=FAILURE)
        await builder.finish(epoch, failure=FAILURE)  # as where the answer was lost
    assert told.result().failure == FAILURE
    assert await later.lease() == epoch + 1


async def test_a_build_that_is_given_up_goes_to_one_who_waits(agents: list[Agent]) -> None:
    builder, waiting = agents[:2]
    epoch = await builder.lease()
    async with asyncio.TaskGroup() as group:
        next_one = group.create_task(waiting.lease())
        await heard(lambda: bool(waiting.heard))
        await builder.finish(epoch)
    assert next_one.result() == epoch + 1


async def test_an_image_that_is_gone_is_built_again_once(agents: list[Agent]) -> None:
    await agents[0].finish(await agents[0].lease(), reference=REFERENCE)
    await agents[1].forget(f"{REPOSITORY}@{digest_of(b'another')}")
    assert (await agents[1].obtain()).HasField("image"), "another reference was meant"
    await agents[1].forget()
    await agents[2].forget()
    assert await agents[1].lease() == 2
    unknown = images_pb2.ImageKey(repository=REPOSITORY, digest=digest_of(b"unknown"))
    assert isinstance(await refused(agents[1].forget(key=unknown)), NotFound)


async def test_who_waits_for_one_build_is_not_woken_by_others(registry: Registry, database_url: str) -> None:
    async with connecting(database_url) as engine:
        servicer = ImageServicer(engine)
        context = cast("grpc.ServicerContext", None)  # not looked at

        def asked(digest: str, builder: str) -> AsyncIterator[images_pb2.ObtainImageResponse]:
            key = images_pb2.ImageKey(repository=REPOSITORY, digest=digest)
            request = images_pb2.ObtainImageRequest(key=key, builder=builder, build_id=builder)
            return servicer.ObtainImage(request, context)

        other = digest_of(b"other")
        await anext(asked(KEY.digest, "agents/builder"))
        await anext(asked(other, "agents/builder"))
        waiting = asked(KEY.digest, "agents/waiting")
        await anext(waiting)
        looks = 0

        def count(*_: object) -> None:
            nonlocal looks
            looks += 1

        key = images_pb2.ImageKey(repository=REPOSITORY, digest=other)
        async with asyncio.TaskGroup() as group:
            rest = group.create_task(anext(waiting))
            event.listen(engine.sync_engine, "begin", count)
            for number in range(50):
                renewal = images_pb2.RenewImageBuildRequest(key=key, epoch=1, detail=str(number))
                await servicer.RenewImageBuild(renewal, context)
            assert looks < 75, "one for each renewal, and some that were due"
            await servicer.FinishImageBuild(
                images_pb2.FinishImageBuildRequest(key=KEY, epoch=1, reference=REFERENCE), context
            )
        assert rest.result().image.reference == REFERENCE


async def test_two_replicas_hand_out_one_lease(registry: Registry, database_url: str, tmp_path: Path) -> None:
    async with (
        registry_service(registry_settings(database_url, tmp_path)) as other,
        open_channel(other.address) as channel,
    ):
        here, there = Agent(registry.channel, "here"), Agent(channel, "there")
        epoch = await here.lease()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(there.obtain())
            await heard(lambda: bool(there.heard))
            await here.finish(epoch, reference=REFERENCE)
        assert waiting.result().image.reference == REFERENCE


@pytest.mark.one_postgres
@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("key.repository", {"key": images_pb2.ImageKey(repository="towline/UPPER", digest=KEY.digest)}),
        ("key.repository", {"key": images_pb2.ImageKey(repository=f"{REPOSITORY}:tag", digest=KEY.digest)}),
        ("key.repository", {"key": images_pb2.ImageKey(repository="a/" + "b" * 300, digest=KEY.digest)}),
        ("key.digest", {"key": images_pb2.ImageKey(repository=REPOSITORY, digest="sha256:1")}),
        ("builder", {"key": KEY, "builder": "node-1"}),
        ("build_id", {"key": KEY, "builder": "agents/a", "build_id": ""}),
    ],
)
async def test_what_is_wrong_is_named(registry: Registry, field: str, request_: dict[str, object]) -> None:
    stub = images_pb2_grpc.ImageServiceStub(registry.channel)
    call = stub.ObtainImage(images_pb2.ObtainImageRequest(**request_))
    error = await refused(call.read())
    assert isinstance(error, InvalidArgument)
    assert error.metadata == {"field": field}


@pytest.mark.parametrize("reference", [REPOSITORY, f"other/x@{digest_of(b'')}", f"{REPOSITORY}:latest"])
async def test_only_what_was_pushed_to_the_repository_is_recorded(
    agents: list[Agent], reference: str
) -> None:
    epoch = await agents[0].lease()
    error = await refused(agents[0].finish(epoch, reference=reference))
    assert isinstance(error, InvalidArgument)
    assert error.metadata == {"field": "reference"}
