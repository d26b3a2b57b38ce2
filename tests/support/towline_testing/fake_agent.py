"""A scripted agent: speaks the lease protocol over a real gRPC stream and does what a test says, no more."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import uuid4

import grpc
from google.protobuf.duration_pb2 import Duration

from towline.errors import TowlineError, Unavailable
from towline.rpc.status import to_error
from towline.v1 import leases_pb2, leases_pb2_grpc, runs_pb2

T = TypeVar("T")

WITHIN_S = 10.0
SUCCEEDED = leases_pb2.AttemptResult(outcome=runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, exit_code=0)


def failed(cause: int = runs_pb2.FAILURE_CAUSE_USER_ERROR, exit_code: int = 1) -> leases_pb2.AttemptResult:
    failure = runs_pb2.Failure(cause=cause, message="It failed.", exit_code=exit_code)
    return leases_pb2.AttemptResult(
        outcome=runs_pb2.ATTEMPT_OUTCOME_FAILED, exit_code=exit_code, failure=failure
    )


def cancelled() -> leases_pb2.AttemptResult:
    failure = runs_pb2.Failure(cause=runs_pb2.FAILURE_CAUSE_CANCELLED, message="Stopped.")
    return leases_pb2.AttemptResult(outcome=runs_pb2.ATTEMPT_OUTCOME_CANCELLED, failure=failure)


def digest(held: dict[str, leases_pb2.Grant]) -> str:
    lines = sorted(f"{lease_id}:{grant.epoch}\n" for lease_id, grant in held.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass
class FakeAgent:
    """What outlives a connection: who the agent is and what it holds."""

    name: str = "agents/one"
    queues: tuple[str, ...] = ("queues/default",)
    slots: int = 1
    gpus: tuple[str, ...] = ()
    instance_id: str = field(default_factory=lambda: str(uuid4()))
    boot_id: str = "boot-1"
    session_id: str = ""
    held: dict[str, leases_pb2.Grant] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    unconfirmed: set[str] = field(default_factory=set)

    def hello(self) -> leases_pb2.Hello:
        return leases_pb2.Hello(
            agent=self.name,
            instance_id=self.instance_id,
            boot_id=self.boot_id,
            session_id=self.session_id,
            queues=self.queues,
            capacity=leases_pb2.Capacity(slots=self.slots),
            gpus=[leases_pb2.Gpu(id=gpu, model="Test", memory_bytes=1 << 30) for gpu in self.gpus],
            labels={"rack": "r1"},
            inventory=self.inventory(),
            version="test",
            hostname=f"host-of-{self.name.removeprefix('agents/')}",
        )

    def inventory(self) -> list[leases_pb2.InventoryEntry]:
        return [
            leases_pb2.InventoryEntry(
                lease_id=lease_id,
                epoch=grant.epoch,
                state=self.states.get(lease_id, runs_pb2.RUN_STATE_LEASED),
                unconfirmed_finish=lease_id in self.unconfirmed,
                gpu_ids=grant.gpu_ids,
            )
            for lease_id, grant in self.held.items()
        ]

    @asynccontextmanager
    async def connected(
        self, channel: grpc.aio.Channel, *, beating: bool = False
    ) -> AsyncIterator["FakeSession"]:
        """Open a session, wait for its Welcome, and say good-bye at the end.

        With `beating` it also sends heartbeats by itself, at the interval of its Welcome.
        """
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            session = FakeSession(self, leases_pb2_grpc.LeaseServiceStub(channel).StreamLeases())
            reader = group.create_task(session.read())
            beater = group.create_task(session.keep_beating()) if beating else None
            try:
                await session.open(self.hello())
                yield session
                await session.leave()
            except Exception as error:  # raised below, as itself and not in a group
                failure = error
            finally:
                if beater:
                    beater.cancel()
                reader.cancel()
                session.abandon()
        if failure is not None:
            raise failure


class FakeSession:
    """One connection: what came over it, and ways to say things."""

    def __init__(self, agent: FakeAgent, call: "grpc.aio.StreamStreamCall") -> None:
        self.agent = agent
        self.welcome: leases_pb2.Welcome | None = None
        self.heartbeat_interval = Duration()
        """As the service said last."""
        self.error: TowlineError | None = None
        self.ended = False
        self.grants: list[leases_pb2.Grant] = []
        self.confirms: dict[str, int] = {}
        self.cancels: list[leases_pb2.Cancel] = []
        self.renewed: list[leases_pb2.Renewed] = []
        self.lost: list[str] = []
        self.drained = False
        self.inventory_wanted = False
        self.go_away: leases_pb2.GoAway | None = None
        self.frozen = False
        """Whether it sends no heartbeats by itself."""
        self._call = call
        self._changed = asyncio.Condition()
        self._writing = asyncio.Lock()
        self._left = False
        self._seq = 0
        self._generation = 0
        self._taken = 0
        self._grant_seq = 0

    @property
    def verdicts(self) -> dict[str, int]:
        return {verdict.lease_id: verdict.action for verdict in self.welcome.verdicts}

    async def open(self, hello: leases_pb2.Hello) -> None:
        """Say Hello and wait for the Welcome, or raise the error that came instead."""
        await self.say(hello=hello)
        await self.until(lambda: self.welcome or self.ended)
        if self.welcome is None:
            raise self.error or Unavailable("the stream ended", reason="STREAM_ENDED")

    async def read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                async with self._changed:
                    self._take(response)
                    self._changed.notify_all()
            code = await self._call.code()
            if code != grpc.StatusCode.OK:
                self.error = to_error(await self._failure(), peer="queue")
        except grpc.aio.AioRpcError as failure:
            self.error = to_error(failure, peer="queue")
        finally:
            self.ended = True
            async with self._changed:
                self._changed.notify_all()

    async def _failure(self) -> grpc.aio.AioRpcError:
        return grpc.aio.AioRpcError(
            await self._call.code(),
            await self._call.initial_metadata(),
            await self._call.trailing_metadata(),
            await self._call.details(),
        )

    def _take(self, response: leases_pb2.StreamLeasesResponse) -> None:
        if response.HasField("welcome"):
            self.welcome = response.welcome
            self.heartbeat_interval = response.welcome.heartbeat_interval
            self.agent.session_id = response.welcome.session_id
        if response.HasField("renewed"):
            self.renewed.append(response.renewed)
            self.lost.extend(response.renewed.lost_lease_ids)
            if response.renewed.HasField("heartbeat_interval"):
                self.heartbeat_interval = response.renewed.heartbeat_interval
        for confirm in response.confirms:
            self.confirms[confirm.finish_id] = confirm.verdict
        self.cancels.extend(response.cancels)
        self.grants.extend(response.grants)
        self._grant_seq = max([self._grant_seq, *(grant.grant_seq for grant in response.grants)])
        self.inventory_wanted |= response.inventory_wanted
        self.drained |= response.HasField("drain")
        if response.HasField("go_away"):
            self.go_away = response.go_away

    async def until(self, condition: Callable[[], T], within: float = WITHIN_S) -> T:
        """Wait until something that came makes the condition truthy; return its value."""
        async with asyncio.timeout(within), self._changed:
            return await self._changed.wait_for(condition)

    async def say(self, **fields: object) -> None:
        """Send one message; the fields are those of StreamLeasesRequest."""
        async with self._writing:  # grpc takes one write at a time
            await self._call.write(leases_pb2.StreamLeasesRequest(**fields))

    def heartbeat(self, **fields: object) -> leases_pb2.Heartbeat:
        """Make the next heartbeat: what is free is what no held lease uses."""
        self._seq += 1
        self._generation += 1
        used = {gpu for grant in self.agent.held.values() for gpu in grant.gpu_ids}
        values = {
            "seq": self._seq,
            "capacity_gen": self._generation,
            "free_slots": self.agent.slots - len(self.agent.held),
            "free_gpu_ids": [gpu for gpu in self.agent.gpus if gpu not in used],
            "lease_set_digest": digest(self.agent.held),
            "grant_seq_seen": self._grant_seq,
        }
        return leases_pb2.Heartbeat(**(values | fields))

    async def beat(self, **fields: object) -> leases_pb2.Renewed:
        """Send a heartbeat and wait until it is acknowledged."""
        heartbeat = self.heartbeat(**fields)
        await self.say(heartbeat=heartbeat)
        await self.until(lambda: self.ended or (self.renewed and self.renewed[-1].ack_seq >= heartbeat.seq))
        if not self.renewed or self.renewed[-1].ack_seq < heartbeat.seq:
            raise self.error or Unavailable("the stream ended", reason="STREAM_ENDED")
        return self.renewed[-1]

    async def keep_beating(self) -> None:
        await self.until(lambda: self.welcome or self.ended)
        while not self.ended:
            if not self.frozen:
                async with self._writing:
                    if self._left:
                        return
                    try:
                        await self._call.write(leases_pb2.StreamLeasesRequest(heartbeat=self.heartbeat()))
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        return  # the stream ended under the write; `read` tells why
            await asyncio.sleep(self.heartbeat_interval.ToTimedelta().total_seconds())

    async def next_grant(self, within: float = WITHIN_S) -> leases_pb2.Grant:
        """Wait for the next grant in the order they came."""
        await self.until(lambda: len(self.grants) > self._taken, within)
        self._taken += 1
        return self.grants[self._taken - 1]

    async def accept(self, *grants: leases_pb2.Grant) -> None:
        for grant in grants:
            self.agent.held[grant.lease_id] = grant
        await self.reply(True, *grants)

    async def reply(self, accepted: bool, *grants: leases_pb2.Grant, reason: str = "") -> None:
        replies = [
            leases_pb2.GrantReply(
                lease_id=grant.lease_id, epoch=grant.epoch, accepted=accepted, reason=reason
            )
            for grant in grants
        ]
        await self.say(grant_replies=replies)

    async def next_accepted(self, within: float = WITHIN_S) -> leases_pb2.Grant:
        """Wait for the next grant and take it."""
        grant = await self.next_grant(within)
        await self.accept(grant)
        return grant

    async def event(self, grant: leases_pb2.Grant, seq: int, state: int, **fields: object) -> None:
        self.agent.states[grant.lease_id] = state
        event = leases_pb2.RunEvent(
            lease_id=grant.lease_id, epoch=grant.epoch, event_seq=seq, state=state, **fields
        )
        await self.say(run_events=[event])

    async def finish(
        self,
        grant: leases_pb2.Grant,
        result: leases_pb2.AttemptResult = SUCCEEDED,
        finish_id: str | None = None,
    ) -> int:
        """Send a result and return the verdict on it."""
        finish_id = finish_id or str(uuid4())
        self.confirms.pop(finish_id, None)
        finish = leases_pb2.Finish(
            lease_id=grant.lease_id, epoch=grant.epoch, finish_id=finish_id, result=result
        )
        await self.say(finishes=[finish])
        await self.until(lambda: finish_id in self.confirms or self.ended)
        if finish_id not in self.confirms:
            raise self.error or Unavailable("the stream ended", reason="STREAM_ENDED")
        self.agent.held.pop(grant.lease_id, None)
        return self.confirms[finish_id]

    async def release(self, grant: leases_pb2.Grant, reason: str = "draining") -> None:
        self.agent.held.pop(grant.lease_id, None)
        release = leases_pb2.Release(lease_id=grant.lease_id, epoch=grant.epoch, reason=reason)
        await self.say(releases=[release])

    async def leave(self) -> None:
        """Say good-bye and wait for the end of the stream."""
        if not self.ended:
            async with self._writing:
                self._left = True
                await self._call.done_writing()
            await self.until(lambda: self.ended)

    def abandon(self) -> None:
        """Break the connection, unless it has ended."""
        self._call.cancel()

    async def drop(self) -> None:
        """Break the connection and notice it."""
        self.abandon()
        await self.until(lambda: self.ended)
