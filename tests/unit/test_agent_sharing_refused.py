"""Images of a fleet where the registry refuses what agents ask of it: no run ends for that."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from towline.names import AgentName
from towline.rpc.channel import open_channel
from towline.v1 import images_pb2, images_pb2_grpc, leases_pb2, runs_pb2
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import failed
from towline_agent.engine.docker import connecting
from towline_agent.image_records import ImageRecords
from towline_agent.sharing import SharedImages, Wanted
from towline_agent.telling import Tell

RESULT = failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, "Built, as far as that goes here.")
_TTL = timedelta(milliseconds=30)


class Refusing(images_pb2_grpc.ImageServiceServicer):
    """Gives a build lease, or not even that, and refuses everything else."""

    def __init__(self) -> None:
        self.gives_leases = True
        self.renewals = 0
        self.renewed_again = asyncio.Event()
        self.finished: list[images_pb2.FinishImageBuildRequest] = []

    async def ObtainImage(
        self, request: images_pb2.ObtainImageRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[images_pb2.ObtainImageResponse]:
        if not self.gives_leases:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "of an earlier release")
        ttl = Duration()
        ttl.FromTimedelta(_TTL)
        yield images_pb2.ObtainImageResponse(lease=images_pb2.BuildLease(epoch=1, ttl=ttl))

    async def RenewImageBuild(
        self, request: images_pb2.RenewImageBuildRequest, context: grpc.aio.ServicerContext
    ) -> images_pb2.RenewImageBuildResponse:
        self.renewals += 1
        if self.renewals > 1:
            self.renewed_again.set()
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy")
        raise AssertionError

    async def FinishImageBuild(
        self, request: images_pb2.FinishImageBuildRequest, context: grpc.aio.ServicerContext
    ) -> images_pb2.FinishImageBuildResponse:
        self.finished.append(request)
        await context.abort(grpc.StatusCode.INTERNAL, "broken")
        raise AssertionError


@pytest.fixture
def refusing() -> Refusing:
    return Refusing()


@pytest.fixture
async def shared(refusing: Refusing) -> AsyncIterator[SharedImages]:
    server = grpc.aio.server()
    images_pb2_grpc.add_ImageServiceServicer_to_server(refusing, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with (
        open_channel(address) as channel,
        # Nothing is asked of the engine: what is built comes to no image.
        connecting("unix:///nowhere.sock") as engine,
        asyncio.TaskGroup() as background,
    ):
        records = ImageRecords(channel, "the registry", "images.example/towline", AgentName("agents/a"))
        yield SharedImages(engine, records, background)
    await server.stop(None)


async def test_a_build_goes_on_where_its_lease_is_not_renewed(
    shared: SharedImages, refusing: Refusing
) -> None:
    async def build(tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
        await refusing.renewed_again.wait()
        return RESULT

    async with asyncio.timeout(10):
        assert await shared.get(Wanted("sha256:" + 64 * "0", "t:1", build), Tell(lambda _: None)) == RESULT


async def test_an_image_is_built_where_nobody_tells_who_has_it(
    shared: SharedImages, refusing: Refusing
) -> None:
    refusing.gives_leases = False
    told: list[str] = []

    async def build(tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
        return RESULT

    async with asyncio.timeout(10):
        assert await shared.get(Wanted("sha256:" + 64 * "0", "t:1", build), Tell(told.append)) == RESULT
    (line,) = told
    assert "of an earlier release" in line
    assert line.endswith(": building it here")


@pytest.mark.parametrize(
    ("log_tail", "told"),
    [("No such package.", "failure"), ("", None), ("write: No space left on device (os error 28)", None)],
)
async def test_others_are_told_what_an_installation_said_and_not_what_a_node_lacks(
    shared: SharedImages, refusing: Refusing, log_tail: str, told: str | None
) -> None:
    result = failed(runs_pb2.FAILURE_CAUSE_IMAGE_BUILD, "The image could not be built.", log_tail)

    async def build(tell: Tell) -> ImageFacts | leases_pb2.AttemptResult:
        return result

    async with asyncio.timeout(10):
        assert await shared.get(Wanted("sha256:" + 64 * "0", "t:1", build), Tell(lambda _: None)) == result
    (finished,) = refusing.finished
    assert finished.WhichOneof("outcome") == told
