"""Takes submissions: has them taken apart, their runs made and stored, and answers."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncEngine

from towline import names
from towline.errors import InvalidArgument, NotFound, ResourceExhausted, TowlineError
from towline.names import QueueName, RunName
from towline.service.postgres import RequestKey, remembered, request_key, transaction
from towline.v1 import runs_pb2
from towline_queue.core.kinds import repeat_run
from towline_queue.core.submission import MAX_RUNS
from towline_queue.making import Asked, make_runs, new_names, take_apart
from towline_queue.recipes import Recipes
from towline_queue.run_views import view
from towline_queue.signals import Key, Topic
from towline_queue.storage import queues, runs
from towline_queue.storage.new_runs import NewRuns, Outcome, single
from towline_queue.storage.tables import requests
from towline_queue.storing import Storing

__all__ = ["Submitter"]

_RETRY_AFTER: Final = timedelta(seconds=1)
# How long an answer waits for its run to be handed out where an agent has room.
_HAND_OUT: Final = timedelta(milliseconds=20)
# Each round that stores nothing means that a queue was changed in between.
_ROUNDS: Final = 20
# Batches of one stream that are made while one is stored; a third is then being made.
_AHEAD: Final = 2

_Batch = runs_pb2.StreamSubmitRunsRequest
_Many = runs_pb2.SubmitRunsResponse | runs_pb2.StreamSubmitRunsResponse
_Write = Callable[[runs_pb2.StreamSubmitRunsResponse], Awaitable[object]]
# Runs to be stored, or the names of those that the request made when it came before.
_Made = NewRuns | Sequence[str]


@dataclass(frozen=True)
class _Work:
    """What a request asks to have stored.

    Attributes:
        key: What tells its repetitions; None: nothing does.
        response: What its method answers.
        queues: Those that `make` remembers.
        make: Makes the runs.
    """

    key: RequestKey | None
    response: type[Message]
    queues: Collection[QueueName]
    make: Callable[[], Awaitable[NewRuns]]


class Submitter:
    """Makes runs of submissions.

    Args:
        engine: The database, for what is read.
        recipes: What submissions name.
        storing: Stores runs.
        has_room: Tells whether an agent of this process could take a run of a queue.
        most_in_flight: Requests carried out at once; more are refused.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        recipes: Recipes,
        storing: Storing,
        has_room: Callable[[str], bool],
        *,
        most_in_flight: int,
    ) -> None:
        self._engine = engine
        self._recipes = recipes
        self._storing = storing
        self._signals = storing.signals
        self._has_room = has_room
        self._most_in_flight = most_in_flight
        self._in_flight = 0

    async def submit(self, request: runs_pb2.SubmitRunRequest) -> runs_pb2.SubmitRunResponse:
        """Queue one run; see RunService.SubmitRun for the errors."""
        asked = take_apart(Asked(request_key(request), _submitted, many=False), [request.run])
        work = self._work(asked, runs_pb2.SubmitRunResponse)
        with self._admitted():
            made = await self._made(work)
            with self._signals.watching(*(Key(Topic.RUN, name) for name in _names(made))) as watch:
                (name,) = await self._settled(work, made)
                # Reading why it waits takes longer than handing it out, and would hold that up.
                if self._has_room(asked.kinds[0].submission.queue):
                    await watch.wait(_HAND_OUT)
        return runs_pb2.SubmitRunResponse(run=await self._view(name))

    async def submit_all(self, request: runs_pb2.SubmitRunsRequest) -> runs_pb2.SubmitRunsResponse:
        """Queue all runs or none; an error names the first run that is wrong, as "runs[i]"."""
        work = self._batch(request, runs_pb2.SubmitRunsResponse)
        return runs_pb2.SubmitRunsResponse(runs=await self._carry_out(work))

    async def submit_stream(self, batches: AsyncIterator[_Batch], write: _Write) -> None:
        """Queue one batch after the other, and write the answer of each; see RunService.StreamSubmitRuns.

        While one is stored the next ones are made, and no more are read than these.

        Raises:
            TowlineError: What is wrong with a batch, see `submit_all`, after those before it were answered.
        """
        ahead: asyncio.Queue[tuple[_Work, _Made] | TowlineError | None] = asyncio.Queue(_AHEAD)

        async def make() -> None:
            try:
                async for batch in batches:
                    work = self._batch(batch, runs_pb2.StreamSubmitRunsResponse)
                    await ahead.put((work, await self._made(work)))
                await ahead.put(None)
            except TowlineError as error:  # has its turn after the batches before it
                await ahead.put(error)

        async with asyncio.TaskGroup() as group:
            group.create_task(make())
            while (batch := await ahead.get()) is not None:
                if isinstance(batch, TowlineError):
                    raise batch
                with self._admitted():
                    stored = await self._settled(*batch)
                await write(runs_pb2.StreamSubmitRunsResponse(runs=stored))

    async def retry(self, request: runs_pb2.RetryRunRequest) -> runs_pb2.RetryRunResponse:
        """Queue a run that has ended once more; see RunService.RetryRun for the errors."""
        name = names.run(request.name)
        key = request_key(request)

        async def make() -> NewRuns:
            async with transaction(self._engine) as connection:
                ended = await runs.ended(connection, name)
            (new_name,), _ = new_names(1)
            return single(repeat_run(ended, new_name), key, _retried([new_name]).SerializeToString())

        (new_name,) = await self._carry_out(_Work(key, runs_pb2.RetryRunResponse, (), make))
        return runs_pb2.RetryRunResponse(run=await self._view(new_name))

    def _batch(self, batch: "runs_pb2.SubmitRunsRequest | _Batch", response: type[_Many]) -> _Work:
        if not 1 <= len(batch.runs) <= MAX_RUNS:
            raise InvalidArgument.field("runs", f"{len(batch.runs)} runs; give 1 to {MAX_RUNS}")

        def answer(stored: Sequence[str]) -> Message:
            return response(runs=stored)

        return self._work(take_apart(Asked(request_key(batch), answer, many=True), batch.runs), response)

    def _work(self, asked: Asked, response: type[Message]) -> _Work:
        return _Work(asked.key, response, asked.queues, lambda: make_runs(asked, self._recipes))

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._in_flight >= self._most_in_flight:
            raise ResourceExhausted(
                f"{self._in_flight} submissions are being carried out; try again, or submit many in one call",
                reason="OVERLOADED",
                # Spread out, so that those refused together do not come back together.
                retry_after=_RETRY_AFTER * (1 + secrets.randbelow(1000) / 1000),
            )
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _carry_out(self, work: _Work) -> Sequence[str]:
        """Store the runs of a request, once however often it comes, and return their names."""
        with self._admitted():
            return await self._settled(work, await self._made(work))

    async def _made(self, work: _Work) -> _Made:
        while True:
            try:
                return await work.make()
            except TowlineError as error:
                # The registry may be away, or what it names may have changed, since the first time.
                if (stored := await self._remembered(work)) is not None:
                    return stored
                # It may be right by what a queue is now.
                if not isinstance(error, InvalidArgument) or not await self._recipes.refresh(work.queues):
                    raise

    async def _settled(self, work: _Work, made: _Made) -> Sequence[str]:
        for _ in range(_ROUNDS):
            if not isinstance(made, NewRuns):
                return made
            if any(new.kind.inputs for new in made.kinds) and (other := await self._noted(work, made)):
                made = other
                continue
            match await self._storing.store(made):
                case Outcome.STORED:
                    return made.names
                case Outcome.REPEATED:
                    if (stored := await self._remembered(work)) is not None:
                        return stored
                case Outcome.STALE:
                    for new in made.kinds:
                        if new.queue is None:
                            raise queues.not_found(new.kind.queue)
                    await self._recipes.refresh(work.queues)
            made = await self._made(work)
        raise ResourceExhausted("the queue changes too fast; try again", reason="OVERLOADED")

    async def _noted(self, work: _Work, made: NewRuns) -> _Made | None:
        """Note what runs read before they are stored; return what to settle in their place, if anything."""
        # Asked first: a repetition must not note runs that are never stored.
        if (stored := await self._remembered(work)) is not None:
            return stored
        try:
            await self._recipes.note_uses(made)
        except NotFound:
            if made.kinds[0].queue is None:  # a run that is repeated: nothing was looked up
                raise
            # Deleted since it was looked up: who looks again says which, or finds another.
            return await self._made(work)
        return None

    async def _remembered(self, work: _Work) -> Sequence[str] | None:
        if work.key is None:
            return None
        response: Any = await remembered(self._engine, requests, work.key, work.response)
        if response is None:
            return None
        return [response.run.name] if "run" in response.DESCRIPTOR.fields_by_name else response.runs

    async def _view(self, name: str) -> runs_pb2.Run:
        async with transaction(self._engine) as connection:
            return await view(connection, RunName(name))


def _names(made: _Made) -> Sequence[str]:
    return made.names if isinstance(made, NewRuns) else made


def _submitted(stored: Sequence[str]) -> runs_pb2.SubmitRunResponse:
    return runs_pb2.SubmitRunResponse(run=runs_pb2.Run(name=stored[0]))


def _retried(stored: Sequence[str]) -> runs_pb2.RetryRunResponse:
    return runs_pb2.RetryRunResponse(run=runs_pb2.Run(name=stored[0]))
