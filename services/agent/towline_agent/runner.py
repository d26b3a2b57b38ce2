"""One attempt, from its grant to its result.

An attempt that begins anew and one that a restarted agent finds on its engine take the same way:
the first step looks for the attempt's container, and makes it where there is none.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from towline.errors import (
    AlreadyExists,
    Internal,
    InvalidArgument,
    NotFound,
    TowlineError,
    Unavailable,
)
from towline.v1 import leases_pb2, logs_pb2, runs_pb2
from towline_agent import tars
from towline_agent.attempts import Attempt, Stop, StopReason
from towline_agent.builder import ImageBuilder
from towline_agent.core import containers, failures
from towline_agent.core.failures import ExitStatus, LogTail
from towline_agent.core.offsets import Skipper
from towline_agent.core.phases import Phase, Step
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import ContainerId, ContainerState, Engine
from towline_agent.keeping import OutputKeeper
from towline_agent.logs import LogPipe, LogWriter
from towline_agent.payload import payload
from towline_agent.stopping import Stopped, unless

__all__ = ["Runner", "Tools"]

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_WHY: Final = {
    StopReason.EXPIRED: "stopping: the lease could not be renewed",
    StopReason.CANCELLED: "stopping on request",
}


@dataclass(frozen=True)
class Tools:
    """What runs are made with."""

    engine: Engine
    health: EngineHealth
    images: ImageBuilder
    logs: LogPipe
    outputs: OutputKeeper


@dataclass(frozen=True)
class _Ended:
    """How a container ended."""

    status: ExitStatus | None
    """None: it is gone."""
    engine_was_away: bool
    """Whether the engine failed to answer while it ran."""


class Runner:
    """Executes attempts; any number at once.

    Args:
        tools: What to execute with.
        owner: Whose containers they will be.
    """

    def __init__(self, tools: Tools, owner: containers.Owner) -> None:
        self._tools = tools
        self._owner = owner

    async def execute(self, attempt: Attempt) -> leases_pb2.AttemptResult:
        """Bring an attempt to its end and return the result; an order to stop ends it sooner.

        Cancelling the call leaves its container running: that is what the agent's own end does.
        """
        try:
            return await self._execute(attempt)
        except Exception as error:
            _log.exception("%s failed in the agent", attempt.spec.run)
            cause: BaseException = error
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            message = cause.message if isinstance(cause, TowlineError) else f"{type(cause).__name__}: {cause}"
            return failures.failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, f"The agent failed: {message}")

    def forget(self, attempt: Attempt) -> None:
        """Let go of an attempt's logs, delivered or not."""
        self._tools.logs.close(attempt.spec.run, attempt.grant.epoch)

    async def remove(self, attempt: Attempt, grace: timedelta | None = None) -> None:
        """Remove an attempt's container, however it is; with `grace` SIGTERM comes first."""
        name = containers.container_name(attempt.spec.run, attempt.grant.epoch)
        found = await self._reach(lambda: self._tools.engine.inspect(name))
        if found and found.state is ContainerState.RUNNING and grace is not None:
            await self._end(found.id, grace)
        await self._reach(lambda: self._tools.engine.remove(name))

    async def _execute(self, attempt: Attempt) -> leases_pb2.AttemptResult:
        container = await unless(attempt.stopping, self._container(attempt))
        if isinstance(container, Stopped):
            # The order may have come after the start was asked for, or to a restarted agent.
            container = await self._found(attempt) or _stopped(attempt.stop, None)
            await self._build_log(attempt).flush()
        if isinstance(container, leases_pb2.AttemptResult):
            await self.remove(attempt)
            return container
        attempt.container_id = container
        writer = self._tools.logs.writer(attempt.spec.run, attempt.grant.epoch, logs_pb2.LOG_STREAM_OUTPUT)
        tail = LogTail()
        async with asyncio.TaskGroup() as group:
            shipping = group.create_task(self._ship(container, writer, tail))
            stopper = group.create_task(self._stop_when_ordered(attempt, container))
            ended = await self._wait(attempt, container)
            stopper.cancel()
            stop = attempt.stop
            attempt.advance(Step.STOP)
            attempt.tell("keeping the outputs")
            kept = await self._tools.outputs.keep(attempt, container)
            skipper = await shipping
        for line in kept.notes:
            await writer.write(skipper.feed(f"towline: {line}\n".encode()))
        result = _stopped(stop, ended.status) if stop else _judge(attempt, ended, tail)
        if kept.problem and result.outcome == runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED:
            result = failures.failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, kept.problem)
            result.exit_code = 0
        result.outputs = kept.artifact
        attempt.tell("delivering the log")
        result.log_size = await writer.flush()
        return result

    async def _container(self, attempt: Attempt) -> ContainerId | leases_pb2.AttemptResult:
        """Return the attempt's started container, found or made, or the result if there can be none."""
        while True:
            await self._tools.health.wait_ready()
            if found := await self._found(attempt):
                return found
            try:
                return await self._make(attempt)
            except Unavailable as error:
                _log.warning("%s waits: %s", attempt.spec.run, error)
                attempt.tell(error.message)
                await self._tools.health.back()

    async def _found(self, attempt: Attempt) -> ContainerId | None:
        """Return the attempt's container if it was started before."""
        name = containers.container_name(attempt.spec.run, attempt.grant.epoch)
        found = await self._reach(lambda: self._tools.engine.inspect(name))
        if found is None or found.state is ContainerState.CREATED:
            return None
        if attempt.phase is not Phase.RUNNING:
            attempt.advance(Step.START)
            attempt.tell("running")
        return found.id

    async def _reach(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Ask the engine something that is safe to ask again, for as long as it takes."""
        while True:
            try:
                return await ask()
            except Unavailable:
                await self._tools.health.back()

    async def _make(self, attempt: Attempt) -> ContainerId | leases_pb2.AttemptResult:
        spec, engine = attempt.spec, self._tools.engine
        if attempt.phase is Phase.LEASED:
            attempt.advance(Step.PREPARE)
        attempt.tell("getting the image")
        build_log = self._build_log(attempt)
        image = await self._tools.images.ensure(spec, build_log, attempt.tell)
        if isinstance(image, leases_pb2.AttemptResult):
            await build_log.flush()
            return image
        attempt.has_image(image.outcome, image.facts.id)
        attempt.tell("starting the container")
        config = containers.container_config(attempt.grant, image.facts, self._owner)
        try:
            container = await self._create(containers.container_name(spec.run, attempt.grant.epoch), config)
            await engine.put_archive(container, "/towline", tars.stream(payload(spec)))
            await engine.start(container)
        except (InvalidArgument, NotFound, Internal) as error:
            return failures.from_start_error(error.message, containers.command_line(spec))
        attempt.container_id = container
        attempt.advance(Step.START)
        attempt.tell("running")
        return container

    def _build_log(self, attempt: Attempt) -> LogWriter:
        return self._tools.logs.writer(attempt.spec.run, attempt.grant.epoch, logs_pb2.LOG_STREAM_BUILD)

    async def _create(self, name: str, config: dict[str, object]) -> ContainerId:
        try:
            return await self._tools.engine.create(name, config)
        except AlreadyExists:  # its maker did not get to start it
            await self._tools.engine.remove(name)
            return await self._tools.engine.create(name, config)

    async def _wait(self, attempt: Attempt, container: ContainerId) -> _Ended:
        away = False
        while True:
            try:
                return _Ended(await self._tools.engine.wait(container), away)
            except NotFound:
                return _Ended(None, away)
            except Unavailable as error:
                away = True
                attempt.tell(error.message)
                await self._tools.health.back()

    async def _ship(self, container: ContainerId, writer: LogWriter, tail: LogTail) -> Skipper:
        """Ship what a container prints until it has ended; return what is there to skip beyond."""
        done = await writer.position()
        first = Skipper(done)
        seen = 0
        while True:
            again = Skipper(seen)
            try:
                async for data in self._tools.engine.logs(container, follow=True):
                    new = again.feed(data)
                    seen += len(new)
                    tail.feed(new)
                    await writer.write(first.feed(new))
            except Unavailable:
                await self._tools.health.back()
            except NotFound:
                return first
            else:
                return first

    async def _stop_when_ordered(self, attempt: Attempt, container: ContainerId) -> None:
        await attempt.stopping.wait()
        stop = attempt.stop
        assert stop is not None  # noqa: S101 - set before the event
        attempt.advance(Step.STOP)
        attempt.tell(_WHY[stop.reason])
        await self._end(container, stop.grace)

    async def _end(self, container: ContainerId, grace: timedelta) -> None:
        """SIGTERM, grace, SIGKILL; returns when it has ended or was killed."""
        engine = self._tools.engine
        await self._reach(lambda: engine.kill(container, "SIGTERM"))
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self._reach(lambda: engine.wait(container))
        except TimeoutError:
            await self._reach(lambda: engine.kill(container, "SIGKILL"))
        except NotFound:
            return


def _judge(attempt: Attempt, ended: _Ended, tail: LogTail) -> leases_pb2.AttemptResult:
    """Classify the end of a container that nobody asked to stop."""
    if ended.status is None:
        return failures.failed(
            runs_pb2.FAILURE_CAUSE_CONTROL_PLANE,
            "The run's container was removed from the engine before it was read.",
            tail.text(),
        )
    if ended.engine_was_away and ended.status.code > 128:
        result = failures.failed(
            runs_pb2.FAILURE_CAUSE_CONTROL_PLANE,
            "The Docker Engine was stopped while the run was in progress and ended its container "
            f"(exit code {ended.status.code}).",
            tail.text(),
        )
        result.exit_code = ended.status.code
        return result
    return failures.from_exit(
        ended.status,
        containers.command_line(attempt.spec),
        attempt.spec.docker.memory_bytes,
        tail.text(),
    )


def _stopped(stop: Stop | None, status: ExitStatus | None) -> leases_pb2.AttemptResult:
    if stop and stop.reason is StopReason.EXPIRED:
        return failures.failed(
            runs_pb2.FAILURE_CAUSE_NODE_LOST,
            "The agent could not renew its lease with the queue service and stopped the run before "
            "another agent could be given it.",
        )
    return failures.cancelled(status.code if status else None)
