"""Tells the queue service of new job versions, so that queues which ask for it have them built."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Final

import grpc

from towline.client.patience import persistently
from towline.errors import TowlineError
from towline.rpc.channel import open_channel
from towline.rpc.status import translated
from towline.v1 import runs_pb2, runs_pb2_grpc

__all__ = ["Prebuilds", "prebuilds_by"]

_log = logging.getLogger(__name__)
_DEADLINE: Final = timedelta(seconds=10)
_MOST: Final = 1000


class Prebuilds:
    """Hands new job versions on, in the background and in order; see RunService.PrebuildJobVersion.

    That a version is built ahead is never worth its creation: what cannot be told within a minute, what comes
    while 1000 wait, and what waits when the service ends is built for whoever submits it first.

    Args:
        channel: To the queue service.
        address: Where it listens, for messages.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self._runs: runs_pb2_grpc.RunServiceAsyncStub = runs_pb2_grpc.RunServiceStub(channel)
        self._peer = f"the queue service ({address})"
        self._made: asyncio.Queue[str] = asyncio.Queue(_MOST)

    def made(self, job_version: str) -> None:
        """Take note of a new "jobs/{job}/versions/{version}"; never waits, never fails."""
        try:
            self._made.put_nowait(job_version)
        except asyncio.QueueFull:
            _log.warning("%s is not built ahead: %d others wait to be told", job_version, _MOST)

    async def run(self) -> None:
        """Tell of one after the other until cancelled."""
        while True:
            job_version = await self._made.get()
            try:
                runs = await persistently(partial(self._tell, job_version))
            except TowlineError as error:
                _log.warning("%s is not built ahead: %s", job_version, error.message)
            else:
                for run in runs:
                    _log.info("%s is built ahead by %s", job_version, run)

    async def _tell(self, job_version: str) -> Sequence[str]:
        request = runs_pb2.PrebuildJobVersionRequest(job_version=job_version)
        with translated(self._peer):
            response = await self._runs.PrebuildJobVersion(request, timeout=_DEADLINE.total_seconds())
        return response.runs


@asynccontextmanager
async def prebuilds_by(address: str) -> AsyncIterator[Prebuilds | None]:
    """Give the way to the queue service at `address`, connected when first used; empty: there is none."""
    if not address:
        yield None
        return
    async with open_channel(address) as channel:
        yield Prebuilds(channel, address)
