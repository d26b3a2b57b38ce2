"""An agent that executes nothing: it takes every grant, says that it runs, then that it has ended.

Lean, since it shares the machine with what is measured: whole batches, constant parts, no task per run.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final
from uuid import uuid4

import grpc

from towline.v1 import leases_pb2, leases_pb2_grpc, runs_pb2

__all__ = ["RESULT", "Session", "committed", "hello", "opened"]

RESULT: Final = leases_pb2.AttemptResult(outcome=runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED, exit_code=0)
RUNNING: Final = runs_pb2.RUN_STATE_RUNNING
Request = leases_pb2.StreamLeasesRequest
Response = leases_pb2.StreamLeasesResponse
_finish_numbers: Final = count()
_FINISH_ID: Final = str(uuid4())[:24] + "{:012x}"


class Session:
    """One open session.

    Args:
        call: Its stream.
        slots: How many attempts it takes at once, from the first `offer` on.
    """

    def __init__(self, call: Any, slots: int) -> None:
        self._call = call
        self._slots = slots
        self._beats = 0
        self._acknowledged = 0
        self._seen = 0
        self._writing = asyncio.Lock()  # gRPC takes one message at a time
        self._running: list[tuple[int, list[tuple[str, int]]]] = []
        """Leases, by id and epoch, with the heartbeat whose answer will tell that they are RUNNING."""
        self.held = 0
        """Attempts granted and not finished."""

    @property
    def busy(self) -> bool:
        """Whether it holds attempts, or the service has not taken in yet what it said last."""
        return self.held > 0 or self._acknowledged < self._beats

    async def offer(self, slots: int | None = None) -> None:
        """Say how many attempts it takes in all from now on: `slots`, or as many as before."""
        self._slots = self._slots if slots is None else slots
        async with self._writing:
            await self._call.write(self._beat(Request()))

    async def hear(self) -> Response:
        """Return what the queue service says next."""
        response = await self._call.read()
        if response is grpc.aio.EOF:
            raise RuntimeError(f"the queue service ended the session: {await self._call.details()}")
        if response.HasField("go_away"):
            raise RuntimeError(f"the queue service sends the agent away: {response.go_away.reason}")
        return response

    async def run(self, grants: Sequence[leases_pb2.Grant]) -> None:
        """Accept grants and say that they run; the heartbeat's answer will tell that this is durable."""
        self.held += len(grants)
        self._seen = grants[-1].grant_seq
        request = Request()
        leases = []
        # Written in place: a message that is made first is copied into the request.
        take, tell = request.grant_replies.add, request.run_events.add
        for grant in grants:
            lease_id, epoch = lease = grant.lease_id, grant.epoch
            take(lease_id=lease_id, epoch=epoch, accepted=True)
            tell(lease_id=lease_id, epoch=epoch, event_seq=1, state=RUNNING)
            leases.append(lease)
        async with self._writing:
            self._beat(request)
            await self._call.write(request)
            self._running.append((self._beats, leases))

    async def finish(self, response: Response) -> None:
        """Finish what is known to be durably RUNNING since this response, and offer the slots again."""
        if not response.HasField("renewed"):
            return
        self._acknowledged = response.renewed.ack_seq
        ended: list[tuple[str, int]] = []
        while self._running and self._running[0][0] <= self._acknowledged:
            ended += self._running.pop(0)[1]
        if ended:
            self.held -= len(ended)
            request = Request()
            finish = request.finishes.add
            for lease_id, epoch in ended:
                finish_id = _FINISH_ID.format(next(_finish_numbers))
                finish(lease_id=lease_id, epoch=epoch, finish_id=finish_id, result=RESULT)
            async with self._writing:
                self._beat(request)
                await self._call.write(request)

    async def work(self, taken: Callable[[leases_pb2.Grant], None] | None = None) -> AsyncIterator[int]:
        """Take, run and finish whatever is granted; give the number of results committed each time."""
        while True:
            response = await self.hear()
            if response.grants:
                if taken is not None:
                    for grant in response.grants:
                        taken(grant)
                await self.run(response.grants)
            await self.finish(response)
            if response.confirms:
                yield committed(response)

    def _beat(self, request: Request) -> Request:
        """Put the next heartbeat into a request."""
        self._beats += 1
        beat = request.heartbeat
        beat.seq = beat.capacity_gen = self._beats
        beat.free_slots = max(self._slots - self.held, 0)
        beat.grant_seq_seen = self._seen
        return request


def committed(response: Response) -> int:
    """Return how many results a response confirms.

    Raises:
        RuntimeError: One was not taken as new.
    """
    for confirm in response.confirms:
        if confirm.verdict != leases_pb2.FINISH_VERDICT_OK:
            raise RuntimeError(f"a result was not committed: {confirm}")
    return len(response.confirms)


def hello(queue: str, slots: int) -> leases_pb2.Hello:
    """Make what a new agent says first."""
    return leases_pb2.Hello(
        agent=f"agents/{uuid4().hex}",
        instance_id=str(uuid4()),
        boot_id="bench",
        queues=[queue],
        capacity=leases_pb2.Capacity(slots=slots),
        hello_seq=1,
    )


@asynccontextmanager
async def opened(channel: grpc.aio.Channel, queue: str, slots: int) -> AsyncIterator[Session]:
    """Open a session of a new agent, which takes nothing yet."""
    call = leases_pb2_grpc.LeaseServiceStub(channel).StreamLeases()
    await call.write(Request(hello=hello(queue, slots)))
    session = Session(call, slots)
    if not (await session.hear()).HasField("welcome"):
        raise RuntimeError("the session did not begin with a Welcome")
    try:
        yield session
    finally:
        call.cancel()
