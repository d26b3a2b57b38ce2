"""One of thousands of idle agents: a session on its own TCP connection, made again when it breaks."""

import asyncio
import time
from collections import Counter
from random import random
from typing import Any, Final
from uuid import uuid4

import grpc
from google.protobuf.duration_pb2 import Duration

from bench.queue.worker_session import RESULT, hello
from towline.rpc.channel import OPTIONS
from towline.v1 import leases_pb2, leases_pb2_grpc, runs_pb2
from towline_agent.core.backoff import Backoff
from towline_agent.core.capacity import lease_set_digest

__all__ = ["Member", "Tally"]

WELCOME_S: Final = 30.0
WRITE_S: Final = 15.0
LONGEST_PAUSE_S: Final = 10.0
# One connection each, as from different nodes: channels of one process share connections otherwise.
OWN_CONNECTION: Final = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
Request = leases_pb2.StreamLeasesRequest


class Tally:
    """What the members of a process have seen."""

    def __init__(self) -> None:
        self.lost = 0
        """Attempts that the service took back, or did not give back after a reconnect."""
        self.errors: Counter[str] = Counter()
        """Why sessions ended or did not open, by gRPC code."""
        self.interval_s = 0.0
        """The longest between heartbeats that the service asked for."""


class Member:
    """An agent with one slot, which keeps what it is granted until it is told to finish.

    Args:
        address: Of the queue service.
        queue: "queues/…".
        tally: Shared with the other members of the process.
    """

    def __init__(self, address: str, queue: str, tally: Tally) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=OWN_CONNECTION)
        self._tally = tally
        self._hello = hello(queue, 1)
        self._call: Any = None
        self._interval_s = 5.0
        """Between heartbeats, as the service wants it."""
        self._beats = 0
        self._seen = 0
        self._running_since = 0
        self._acknowledged = 0
        self.held: dict[str, int] = {}
        """Epochs of its attempts by lease."""
        self.welcomed_at = 0.0
        """When its session opened, by the monotonic clock; 0 while it has none."""
        self.beat_at = 0.0
        """When its next heartbeat is due."""
        self.committed = 0
        """Results that the service has confirmed as new."""

    @property
    def running(self) -> bool:
        """Whether it holds an attempt that is durably RUNNING."""
        return bool(self.held) and self._acknowledged >= self._running_since

    async def live(self) -> None:
        """Keep a session up until cancelled."""
        backoff = Backoff(random, cap=LONGEST_PAUSE_S)
        while True:
            try:
                await self._open()
                backoff.succeeded()
                while (response := await self._call.read()) is not grpc.aio.EOF:
                    await self._heed(response)
                self._tally.errors["EOF"] += 1
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
                self._tally.errors[code] += 1
            finally:
                self.welcomed_at = 0.0
                if self._call is not None:
                    self._call.cancel()
            await asyncio.sleep(backoff.failed())

    async def _open(self) -> None:
        self._call = leases_pb2_grpc.LeaseServiceStub(self._channel).StreamLeases()
        self._hello.hello_seq += 1
        del self._hello.inventory[:]
        inventory = [
            leases_pb2.InventoryEntry(lease_id=lease, epoch=epoch, state=runs_pb2.RUN_STATE_RUNNING)
            for lease, epoch in self.held.items()
        ]
        self._hello.inventory.extend(inventory)
        async with asyncio.timeout(WELCOME_S):
            await self._call.write(Request(hello=self._hello))
            response = await self._call.read()
        if response is grpc.aio.EOF:
            await self._call.code()
            raise TimeoutError
        welcome = response.welcome
        adopted = {
            verdict.lease_id
            for verdict in welcome.verdicts
            if verdict.action == leases_pb2.VERDICT_ACTION_ADOPT
        }
        for lease in self.held.keys() - adopted:
            self._drop(lease)
        self._beats = self._seen = self._acknowledged = self._running_since = 0
        self._beat_every(welcome.heartbeat_interval)
        self.welcomed_at = time.monotonic()
        # Spread over the interval: thousands that came at once do not go on in step.
        self.beat_at = self.welcomed_at + self._interval_s * random()

    async def beat(self) -> None:
        """Send a heartbeat, if there is a session."""
        self.beat_at = time.monotonic() + self._interval_s
        if self.welcomed_at:
            await self._say(Request())

    async def finish(self) -> None:
        """Finish what it holds."""
        finishes = [
            leases_pb2.Finish(lease_id=lease, epoch=epoch, finish_id=str(uuid4()), result=RESULT)
            for lease, epoch in self.held.items()
        ]
        self.held.clear()
        await self._say(Request(finishes=finishes))

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def _say(self, request: leases_pb2.StreamLeasesRequest) -> None:
        self._beats += 1
        request.heartbeat.CopyFrom(
            leases_pb2.Heartbeat(
                seq=self._beats,
                capacity_gen=self._beats,
                free_slots=0 if self.held else 1,
                lease_set_digest=lease_set_digest(self.held.items()),
                grant_seq_seen=self._seen,
            )
        )
        call = self._call  # it may be followed by another before the write fails
        try:
            async with asyncio.timeout(WRITE_S):
                await call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            call.cancel()  # its reader sees why, and connects again

    async def _heed(self, response: leases_pb2.StreamLeasesResponse) -> None:
        self._acknowledged = max(self._acknowledged, response.renewed.ack_seq)
        if response.renewed.HasField("heartbeat_interval"):
            self._beat_every(response.renewed.heartbeat_interval)
            self.beat_at = time.monotonic() + self._interval_s
        for lease in response.renewed.lost_lease_ids:
            self._drop(lease)
        self.committed += sum(
            confirm.verdict == leases_pb2.FINISH_VERDICT_OK for confirm in response.confirms
        )
        if not response.grants:
            return
        self._seen = response.grants[-1].grant_seq
        request = Request()
        for grant in response.grants:
            key = {"lease_id": grant.lease_id, "epoch": grant.epoch}
            self.held[grant.lease_id] = grant.epoch
            request.grant_replies.add(**key, accepted=True)
            request.run_events.add(**key, event_seq=1, state=runs_pb2.RUN_STATE_RUNNING)
        self._running_since = self._beats + 1
        await self._say(request)

    def _beat_every(self, interval: Duration) -> None:
        self._interval_s = interval.ToTimedelta().total_seconds()
        self._tally.interval_s = max(self._tally.interval_s, self._interval_s)

    def _drop(self, lease: str) -> None:
        if self.held.pop(lease, None) is not None:
            self._tally.lost += 1
