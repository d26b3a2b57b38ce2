"""The registry's record of images and build leases, as the agent uses it."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import grpc

from towline.errors import Internal
from towline.names import AgentName, short
from towline.rpc.status import translated
from towline.v1 import images_pb2, images_pb2_grpc, runs_pb2

__all__ = ["ImageRecords", "Lease", "Obtained"]

_ANSWER_S: Final = 10.0
# Builds of a whole CUDA stack take hours on a slow line; the stream is asked for again after that.
_WAIT_S: Final = 24 * 3600.0


@dataclass(frozen=True)
class Lease:
    """The right to build an image."""

    epoch: int
    ttl: timedelta


Obtained = images_pb2.Image | Lease | runs_pb2.Failure


class ImageRecords:
    """Client of ImageService for one repository. Errors are Towline's; Unavailable: trying again may help.

    Args:
        channel: To the registry.
        peer: The service and its address, for messages.
        repository: Where the agents push to, see ImageKey.repository.
        agent: Who asks.
    """

    def __init__(self, channel: grpc.aio.Channel, peer: str, repository: str, agent: AgentName) -> None:
        self._stub = images_pb2_grpc.ImageServiceStub(channel)
        self._peer = peer
        self.repository = repository
        self._agent = agent

    async def obtain(self, digest: str, build: uuid.UUID, tell: Callable[[str], None]) -> Obtained:
        """Wait until the image of a content key is there, its build has failed, or it is ours to build.

        Args:
            digest: "sha256:" + 64 hex digits.
            build: The same in each repetition.
            tell: Gets how somebody else's build goes, for people.
        """
        request = images_pb2.ObtainImageRequest(
            key=self._key(digest), builder=self._agent, build_id=str(build)
        )
        with translated(self._peer):
            async for response in self._stub.ObtainImage(request, timeout=_WAIT_S):
                match response.WhichOneof("state"):
                    case "image":
                        return response.image
                    case "failure":
                        return response.failure
                    case "lease":
                        return Lease(response.lease.epoch, response.lease.ttl.ToTimedelta())
                    case _:
                        builder, detail = short(response.building.builder), response.building.detail
                        tell(f"{builder} builds the same image" + (f": {detail}" if detail else ""))
        raise Internal(f"{self._peer} left open where the image of {digest} stands", reason="INTERNAL")

    async def renew(self, digest: str, epoch: int, detail: str) -> None:
        """Keep a build lease; Aborted where it is no longer ours."""
        request = images_pb2.RenewImageBuildRequest(key=self._key(digest), epoch=epoch, detail=detail)
        with translated(self._peer):
            await self._stub.RenewImageBuild(request, timeout=_ANSWER_S)

    async def finish(
        self, digest: str, epoch: int, outcome: images_pb2.Image | runs_pb2.Failure | None = None
    ) -> None:
        """End a build lease: with the image, with why there can be none, or so that somebody else builds.

        Raises:
            Aborted: It was no longer ours.
        """
        request = images_pb2.FinishImageBuildRequest(key=self._key(digest), epoch=epoch)
        if isinstance(outcome, images_pb2.Image):
            request.reference, request.size_bytes = outcome.reference, outcome.size_bytes
        elif outcome is not None:
            request.failure.CopyFrom(outcome)
        with translated(self._peer):
            await self._stub.FinishImageBuild(request, timeout=_ANSWER_S)

    async def forget(self, digest: str, reference: str) -> None:
        """Tell that an image which was recorded is not there any more."""
        request = images_pb2.ForgetImageRequest(key=self._key(digest), reference=reference)
        with translated(self._peer):
            await self._stub.ForgetImage(request, timeout=_ANSWER_S)

    def _key(self, digest: str) -> images_pb2.ImageKey:
        return images_pb2.ImageKey(repository=self.repository, digest=digest)
