"""ImageService."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from random import uniform
from typing import Final
from weakref import WeakValueDictionary

import grpc
from google.protobuf.duration_pb2 import Duration
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.service.postgres import transaction
from towline.v1.images_pb2 import (
    BuildLease,
    BuildProgress,
    FinishImageBuildRequest,
    FinishImageBuildResponse,
    ForgetImageRequest,
    ForgetImageResponse,
    Image,
    ImageKey,
    ObtainImageRequest,
    ObtainImageResponse,
    RenewImageBuildRequest,
    RenewImageBuildResponse,
)
from towline.v1.images_pb2_grpc import ImageServiceServicer
from towline.v1.runs_pb2 import Failure
from towline_registry.core import images as core
from towline_registry.core.images import Key
from towline_registry.servicers.timestamps import timestamp
from towline_registry.storage import images
from towline_registry.storage.images import Building, Failed, Leased, Pushed

__all__ = ["ImageServicer"]

# A builder renews three times in it; long enough for a restart of this service.
BUILD_TTL: Final = timedelta(seconds=30)
# What another replica carried out, and a lease whose time is up, is noticed after this.
_LOOK_AGAIN: Final = timedelta(seconds=1)


class ImageServicer(ImageServiceServicer):
    """Serves towline.v1.ImageService.

    Args:
        engine: Where images are recorded.
        ttl: How long a build lease holds without a renewal.
    """

    def __init__(self, engine: AsyncEngine, ttl: timedelta = BUILD_TTL) -> None:
        self._engine = engine
        self._ttl = ttl
        self._changed: WeakValueDictionary[Key, asyncio.Condition] = WeakValueDictionary()
        """Of the images that somebody waits for: notified when this replica has changed one."""

    async def ObtainImage(
        self, request: ObtainImageRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[ObtainImageResponse]:
        """See images.proto."""
        key = core.key(request.key)
        asker = (core.builder(request.builder), core.build_id(request.build_id))
        # Of its own for each image: a renewal is told to those who wait for that build, not to all.
        changed = self._changed.setdefault(key, asyncio.Condition())
        waited_for: Building | None = None
        while True:
            async with transaction(self._engine) as connection:
                epoch = waited_for.epoch if waited_for else None
                state = await images.obtain(connection, key, asker, epoch, self._ttl)
            if state != waited_for:
                yield self._response(key, state)
            if not isinstance(state, Building):
                return
            waited_for = state
            await _change(changed)

    async def RenewImageBuild(
        self, request: RenewImageBuildRequest, context: grpc.ServicerContext
    ) -> RenewImageBuildResponse:
        """See images.proto."""
        detail = request.detail[: core.MAX_DETAIL_CHARACTERS]
        key = core.key(request.key)
        async with transaction(self._engine) as connection:
            await images.renew(connection, key, request.epoch, detail, self._ttl)
        await self._tell(key)
        return RenewImageBuildResponse(ttl=self._duration())

    async def FinishImageBuild(
        self, request: FinishImageBuildRequest, context: grpc.ServicerContext
    ) -> FinishImageBuildResponse:
        """See images.proto."""
        key = core.key(request.key)
        outcome = request.WhichOneof("outcome")
        pushed = (
            (core.reference(request.reference, key), max(request.size_bytes, 0))
            if outcome == "reference"
            else None
        )
        failure = request.failure.SerializeToString() if outcome == "failure" else None
        async with transaction(self._engine) as connection:
            await images.finish(connection, key, request.epoch, pushed=pushed, failure=failure)
        await self._tell(key)
        return FinishImageBuildResponse()

    async def ForgetImage(
        self, request: ForgetImageRequest, context: grpc.ServicerContext
    ) -> ForgetImageResponse:
        """See images.proto."""
        async with transaction(self._engine) as connection:
            await images.forget(connection, core.key(request.key), request.reference)
        return ForgetImageResponse()

    async def _tell(self, key: Key) -> None:
        if (changed := self._changed.get(key)) is not None:
            async with changed:
                changed.notify_all()

    def _duration(self) -> Duration:
        ttl = Duration()
        ttl.FromTimedelta(self._ttl)
        return ttl

    def _response(self, key: Key, state: images.State) -> ObtainImageResponse:
        match state:
            case Pushed():
                return ObtainImageResponse(image=_image(key, state))
            case Leased(epoch):
                return ObtainImageResponse(lease=BuildLease(epoch=epoch, ttl=self._duration()))
            case Failed(failure):
                return ObtainImageResponse(failure=Failure.FromString(failure))
            case Building():
                return ObtainImageResponse(
                    building=BuildProgress(
                        builder=state.builder, detail=state.detail, start_time=timestamp(state.start_time)
                    )
                )


async def _change(changed: asyncio.Condition) -> None:
    """Wait until something may have changed."""
    within = _LOOK_AGAIN.total_seconds() * uniform(0.8, 1.2)  # noqa: S311 - jitter
    try:
        async with asyncio.timeout(within), changed:
            await changed.wait()
    except TimeoutError:
        return


def _image(key: Key, pushed: Pushed) -> Image:
    return Image(
        key=ImageKey(repository=key.repository, digest=key.digest),
        reference=pushed.reference,
        size_bytes=pushed.size_bytes,
        builder=pushed.builder,
        create_time=timestamp(pushed.create_time),
    )
