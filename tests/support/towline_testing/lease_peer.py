"""A queue service of the tests' own: speaks the lease and log protocols and does what a test says.

For what the real service would never do, or not at the moment a test wants it: lose a
confirmation, refuse a log, supersede a session, call a lease stale.
"""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from towline.errors import TowlineError
from towline.rpc.channel import OPTIONS
from towline.service.interceptor import ErrorInterceptor
from towline.v1 import leases_pb2, leases_pb2_grpc, logs_pb2, logs_pb2_grpc, runs_pb2
from towline_testing.waiting import eventually_async

LogKey = tuple[str, int, int]


def duration(value: timedelta) -> Duration:
    made = Duration()
    made.FromTimedelta(value)
    return made


class LeasePeer(leases_pb2_grpc.LeaseServiceServicer, logs_pb2_grpc.LogServiceServicer):
    """Grants what it is told to, keeps what it is told, and behaves as its fields say."""

    def __init__(self) -> None:
        self.address = ""
        self.ttl = timedelta(seconds=60)
        self.interval = timedelta(milliseconds=200)
        self.refusal: TowlineError | None = None
        """What every session is refused with."""
        self.missing_queues: list[str] = []
        """What every session is told that it asked for in vain."""
        self.confirming = True
        self.renewing = True
        self.verdicts: dict[str, leases_pb2.VerdictAction.ValueType] = {}
        """By lease id; ADOPT for others."""
        self.hellos: list[leases_pb2.Hello] = []
        self.beats: list[leases_pb2.Heartbeat] = []
        self.replies: list[leases_pb2.GrantReply] = []
        self.events: list[leases_pb2.RunEvent] = []
        self.finishes: list[leases_pb2.Finish] = []
        self.releases: list[leases_pb2.Release] = []
        self.without_session: list[leases_pb2.Finish] = []
        """Results that came by FinishLeases; all are confirmed."""
        self.drains = 0
        self.logs: dict[LogKey, bytearray] = defaultdict(bytearray)
        self.log_refusals: dict[str, TowlineError] = {}
        """By run: what its log requests end the call with."""
        self.stale_logs: set[str] = set()
        self.log_requests: list[logs_pb2.AppendLogsRequest] = []
        self.log_delay = asyncio.Event()
        """Cleared: no log request is answered."""
        self.log_delay.set()
        self._session: asyncio.Queue[leases_pb2.StreamLeasesResponse | TowlineError | None] = asyncio.Queue()
        self._grant_seq = 0
        self._readers: asyncio.TaskGroup | None = None

    async def grant(
        self, spec: runs_pb2.LaunchSpec, epoch: int = 1, gpu_ids: tuple[str, ...] = ()
    ) -> leases_pb2.Grant:
        """Grant a run to the agent that is connected."""
        self._grant_seq += 1
        grant = leases_pb2.Grant(
            lease_id=str(uuid.uuid4()),
            epoch=epoch,
            attempt=1,
            ttl=duration(self.ttl),
            spec=spec,
            gpu_ids=gpu_ids,
            grant_seq=self._grant_seq,
        )
        await self.say(leases_pb2.StreamLeasesResponse(grants=[grant]))
        return grant

    async def cancel(
        self,
        grant: leases_pb2.Grant,
        grace: timedelta,
        reason: leases_pb2.StopReason.ValueType = leases_pb2.STOP_REASON_CANCELLED,
    ) -> None:
        cancel = leases_pb2.Cancel(
            lease_id=grant.lease_id, epoch=grant.epoch, grace=duration(grace), reason=reason
        )
        await self.say(leases_pb2.StreamLeasesResponse(cancels=[cancel]))

    async def say(self, response: "leases_pb2.StreamLeasesResponse | TowlineError | None") -> None:
        """Send a message; an error or None ends the session with it."""
        await self._session.put(response)

    async def finish_of(self, grant: leases_pb2.Grant, within: float = 30) -> leases_pb2.AttemptResult:
        """Wait for the result of a grant."""

        async def found() -> leases_pb2.Finish | None:
            return next((done for done in self.finishes if done.lease_id == grant.lease_id), None)

        finish = await eventually_async(found, within=within)
        assert finish is not None
        return finish.result

    async def state_of(self, grant: leases_pb2.Grant, state: int, within: float = 30) -> leases_pb2.RunEvent:
        """Wait until the agent has told a state of a grant."""

        async def found() -> leases_pb2.RunEvent | None:
            events = (e for e in self.events if e.lease_id == grant.lease_id and e.state == state)
            return next(events, None)

        event = await eventually_async(found, within=within)
        assert event is not None
        return event

    async def until(self, condition: Any, within: float = 10) -> Any:
        async def ask() -> Any:
            return condition()

        return await eventually_async(ask, within=within)

    def output(self, grant: leases_pb2.Grant) -> bytes:
        return bytes(self.logs[grant.spec.run, grant.epoch, logs_pb2.LOG_STREAM_OUTPUT])

    def build_log(self, grant: leases_pb2.Grant) -> bytes:
        return bytes(self.logs[grant.spec.run, grant.epoch, logs_pb2.LOG_STREAM_BUILD])

    async def StreamLeases(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        hello = (await anext(aiter(requests))).hello
        self.hellos.append(hello)
        if self.refusal:
            raise self.refusal
        self._session = asyncio.Queue()
        session = self._session
        verdicts = [
            leases_pb2.Verdict(
                lease_id=entry.lease_id,
                epoch=entry.epoch,
                action=self.verdicts.get(entry.lease_id, leases_pb2.VERDICT_ACTION_ADOPT),
            )
            for entry in hello.inventory
        ]
        welcome = leases_pb2.Welcome(
            session_id=str(uuid.uuid4()),
            session_epoch=len(self.hellos),
            heartbeat_interval=duration(self.interval),
            verdicts=verdicts,
            missing_queues=self.missing_queues,
        )
        yield leases_pb2.StreamLeasesResponse(welcome=welcome)
        assert self._readers
        reader = self._readers.create_task(self._read(requests, session))
        try:
            while (said := await session.get()) is not None:
                if isinstance(said, TowlineError):
                    raise said
                yield said
        finally:
            reader.cancel()

    async def _read(self, requests: Any, session: asyncio.Queue[Any]) -> None:
        async for request in requests:
            self.replies.extend(request.grant_replies)
            self.events.extend(request.run_events)
            self.releases.extend(request.releases)
            for finish in request.finishes:
                self.finishes.append(finish)
                if self.confirming:
                    confirm = leases_pb2.Confirm(
                        finish_id=finish.finish_id, verdict=leases_pb2.FINISH_VERDICT_OK
                    )
                    await session.put(leases_pb2.StreamLeasesResponse(confirms=[confirm]))
            if request.HasField("heartbeat"):
                self.beats.append(request.heartbeat)
                if self.renewing:
                    renewed = leases_pb2.Renewed(ack_seq=request.heartbeat.seq)
                    await session.put(leases_pb2.StreamLeasesResponse(renewed=renewed))
            self.drains += request.HasField("drain")
        await session.put(None)

    async def FinishLeases(self, request: Any, context: Any) -> leases_pb2.FinishLeasesResponse:
        self.without_session.extend(request.finishes)
        confirms = [
            leases_pb2.Confirm(finish_id=finish.finish_id, verdict=leases_pb2.FINISH_VERDICT_OK)
            for finish in request.finishes
        ]
        return leases_pb2.FinishLeasesResponse(confirms=confirms)

    async def AppendLogs(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            await self.log_delay.wait()
            self.log_requests.append(request)
            if request.run in self.log_refusals:
                raise self.log_refusals[request.run]
            log = self.logs[request.run, request.epoch, request.stream]
            stale = request.run in self.stale_logs
            assert request.offset <= len(log), "a gap"
            if request.data and not stale:
                log += request.data[len(log) - request.offset :]
            yield logs_pb2.AppendLogsResponse(
                run=request.run,
                epoch=request.epoch,
                stream=request.stream,
                committed_offset=len(log),
                stale=stale,
            )

    @asynccontextmanager
    async def serving(self, address: str = "127.0.0.1:0") -> AsyncIterator["LeasePeer"]:
        """Serve on an address; the same peer may do so again, as a service that restarts does."""
        async with asyncio.TaskGroup() as self._readers, self._server(address) as self.address:
            yield self

    @asynccontextmanager
    async def _server(self, address: str) -> AsyncIterator[str]:
        server = grpc.aio.server(
            interceptors=[ErrorInterceptor()], options=[*OPTIONS, ("grpc.so_reuseport", 0)]
        )
        leases_pb2_grpc.add_LeaseServiceServicer_to_server(self, server)
        logs_pb2_grpc.add_LogServiceServicer_to_server(self, server)
        port = server.add_insecure_port(address)
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0)
