"""One attempt, from its grant to its result.

An attempt that begins anew and one that a restarted agent finds on its engine take the same way:
the first step looks for the attempt's container, and makes it where there never was one.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

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
from towline_agent.attempts import Attempt, to_boottime
from towline_agent.blame import blame
from towline_agent.builder import ImageBuilder
from towline_agent.core import containers, failures
from towline_agent.core.failures import EndedBy, LogTail
from towline_agent.core.inputs import config_files, input_mounts
from towline_agent.core.offsets import Skipper
from towline_agent.core.stops import Exit, stopped_result
from towline_agent.deadlines import boottime
from towline_agent.ending import Ending
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import Container, ContainerId, ContainerState, Engine
from towline_agent.input_cache import InputCache
from towline_agent.journal import Journal
from towline_agent.keeping import Kept, OutputKeeper
from towline_agent.logs import LogPipe, LogWriter
from towline_agent.payload import payload
from towline_agent.spares import Spares
from towline_agent.stopping import Stopped, to_the_end, unless
from towline_agent.telling import Tell

__all__ = ["Runner", "Tools"]

_log = logging.getLogger(__name__)
_BUILT_UID: Final = int(containers.BUILT_USER.partition(":")[0])


@dataclass(frozen=True)
class Tools:
    """What runs are made with."""

    engine: Engine
    health: EngineHealth
    images: ImageBuilder
    logs: LogPipe
    outputs: OutputKeeper


class _Log:
    """What was read of a container's log."""

    def __init__(self) -> None:
        self.tail = LogTail()
        self.size = 0

    def feed(self, data: bytes) -> None:
        self.tail.feed(data)
        self.size += len(data)


class Runner:
    """Executes attempts; any number at once.

    Args:
        tools: What to execute with.
        inputs: Gets what runs read.
        spares: Has a volume ready for the next run.
        journal: Has what earlier starts have seen.
        owner: Whose containers they will be.
    """

    def __init__(
        self, tools: Tools, inputs: InputCache, spares: Spares, journal: Journal, owner: containers.Owner
    ) -> None:
        self._tools = tools
        self._inputs = inputs
        self._spares = spares
        self._journal = journal
        self._owner = owner
        self._ending = Ending(tools.engine, tools.health, journal)

    async def execute(self, attempt: Attempt) -> leases_pb2.AttemptResult:
        """Bring an attempt to its end and return the result; an order to stop ends it sooner.

        Cancelling the call leaves its container running: that is what the agent's own end does.
        """
        try:
            return await self._execute(attempt)
        except Exception as error:
            _log.exception("%s failed in the agent", attempt.spec.run)
            # With a result the run may go to another agent: its container must not run on here.
            await self.remove(attempt)
            cause: BaseException = error
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            message = cause.message if isinstance(cause, TowlineError) else f"{type(cause).__name__}: {cause}"
            return failures.failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, f"The agent failed: {message}")

    def forget(self, attempt: Attempt) -> None:
        """Let go of an attempt's logs, delivered or not."""
        self._tools.logs.close(attempt.spec.run, attempt.grant.epoch)

    async def remove(self, attempt: Attempt, grace: timedelta | None = None) -> None:
        """Remove an attempt's container, however it is; with `grace` the stop signal comes first."""
        await self._ending.remove(attempt, grace)
        self._spares.freed()

    async def _execute(self, attempt: Attempt) -> leases_pb2.AttemptResult:
        container = await unless(attempt.stopping, self._container(attempt))
        if isinstance(container, Stopped):
            # The order may have come after the start was asked for, or to a restarted agent.
            container = await self._found(attempt)
        if isinstance(container, leases_pb2.AttemptResult):
            await self.remove(attempt)
            if attempt.spec.build_only:
                container.log_size = await self._output_log(attempt).flush()
            return container
        if container is None:
            return await self._without_container(attempt)
        return await self._attend(attempt, container)

    async def _attend(self, attempt: Attempt, container: ContainerId) -> leases_pb2.AttemptResult:
        """Stay with a container until it has ended, and return the result."""
        writer = self._output_log(attempt)
        log = _Log()
        async with asyncio.TaskGroup() as group:
            shipping = group.create_task(self._ship(container, writer, log))
            enders = [
                group.create_task(self._ending.when_ordered(attempt, container)),
                group.create_task(self._ending.kill_when_due(attempt, container)),
            ]
            ended, was_away = await self._wait(attempt, container)
            for ender in enders:
                ender.cancel()
            if ended is not None:
                await self._note_exit(attempt, ended, log, engine_was_away=was_away)
            with attempt.telling("keeping the outputs"):
                kept = await self._tools.outputs.keep(attempt, container)
            skipper = await shipping
        for line in kept.notes:
            await writer.write(skipper.feed(f"towline: {line}\n".encode()))
        result = _judge(attempt, log.tail.text())
        return await self._conclude(attempt, result, kept)

    async def _without_container(self, attempt: Attempt) -> leases_pb2.AttemptResult:
        """Return the result of an attempt whose container was never started, or is gone."""
        await self._build_log(attempt).flush()
        await self.remove(attempt)
        ended = attempt.lease.exit
        if ended is None:
            result = _judge(attempt)
            printed = attempt.lease.begun or attempt.spec.build_only
            result.log_size = await self._output_log(attempt).position() if printed else 0
            return result
        problem = "The run's container was removed from the engine before its outputs were kept."
        writer = self._output_log(attempt)
        delivered = await writer.position()
        if delivered < ended.log_read:
            lost = f"{ended.log_read - delivered} bytes or more of the log were lost with the container"
            await writer.write(f"towline: {lost}\n".encode())
        result = _judge(attempt)
        return await self._conclude(attempt, result, Kept(problem=problem))

    async def _conclude(
        self, attempt: Attempt, result: leases_pb2.AttemptResult, kept: Kept
    ) -> leases_pb2.AttemptResult:
        """Put into a result what became of outputs and log."""
        if kept.problem and result.outcome == runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED:
            result = failures.failed(runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, kept.problem)
            result.exit_code = 0
        result.outputs = kept.artifact
        result.summary_json = kept.summary
        result.logged_artifacts.extend(kept.logged)
        with attempt.telling("delivering the log"):
            result.log_size = await self._output_log(attempt).flush()
        return result

    async def _container(self, attempt: Attempt) -> ContainerId | leases_pb2.AttemptResult | None:
        """Return the attempt's started container, found or made.

        Or the result if there can be none, or None if it may have been started before and is gone: made
        again, its program would be executed twice.
        """
        while True:
            await self._tools.health.wait_ready()
            if attempt.lease.begun and (found := await self._found(attempt)):
                return found
            if attempt.lease.exit is not None:
                return None
            try:
                if attempt.lease.begun:
                    return await self._begin_again(attempt)
                return await self._make(attempt)
            except Unavailable as error:
                _log.warning("%s waits: %s", attempt.spec.run, error)
                attempt.tell(error.message)
                await self._tools.health.back()

    async def _found(self, attempt: Attempt) -> ContainerId | None:
        """Return the attempt's container if it was started before."""
        found = await self._inspect(containers.container_name(attempt.spec.run, attempt.grant.epoch))
        if found is None or found.state is ContainerState.CREATED:
            return None
        if not attempt.lease.container_id:
            started = boottime() if found.started_at is None else to_boottime(found.started_at)
            attempt.started(found.id, started)
            attempt.tell("running")
        return found.id

    async def _inspect(self, container: str) -> Container | None:
        return await self._ending.reach(lambda: self._tools.engine.inspect(container))

    async def _make(self, attempt: Attempt) -> ContainerId | leases_pb2.AttemptResult:
        spec = attempt.spec
        attempt.prepares()
        attempt.tell("getting the image")
        build_log = self._build_log(attempt)
        tell = Tell(attempt.tell)
        image = await self._tools.images.ensure(spec, build_log, tell)
        if isinstance(image, leases_pb2.AttemptResult):
            attempt.has_no_image(tell.image())
            await build_log.flush()
            return image
        attempt.has_image(image.outcome, image.facts.id, tell.image(image.facts.size_bytes))
        if spec.build_only:
            attempt.tell("the image is there")
            return leases_pb2.AttemptResult(outcome=runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED)
        container = await self._with_inputs(attempt, image.facts)
        if not isinstance(container, leases_pb2.AttemptResult):
            return await self._start(attempt, container)
        if await self._tools.engine.image(image.facts.id) is None:
            raise Unavailable("its image was removed from the engine", reason="IMAGE_GONE")
        return container

    async def _with_inputs(
        self, attempt: Attempt, image: containers.ImageFacts
    ) -> ContainerId | leases_pb2.AttemptResult:
        """Make the attempt's container once its inputs are here."""
        spec = attempt.spec
        async with self._inputs.holding(spec.inputs, image.id, attempt.tell) as volumes:
            if isinstance(volumes, leases_pb2.AttemptResult):
                return volumes
            attempt.tell("starting the container")
            try:
                return await self._prepare(attempt, image, volumes)
            except (InvalidArgument, NotFound, Internal) as error:
                return failures.from_start_error(error.message, containers.command_line(spec))

    async def _prepare(
        self, attempt: Attempt, image: containers.ImageFacts, volumes: Mapping[str, str]
    ) -> ContainerId:
        """Make the attempt's container, with everything in it that its program is to find."""
        spec, engine = attempt.spec, self._tools.engine
        mounts, name = input_mounts(volumes), containers.container_name(spec.run, attempt.grant.epoch)
        async with self._spares.taken(spec, image.id) as spare:
            config = containers.container_config(attempt.grant, image, self._owner, mounts, spare)
            container = await self._create(name, config)
        if not spare or not await self._spares.is_whole(container):
            await engine.put_archive(container, "/towline", tars.stream(payload(spec)))
        if files := config_files(spec):
            entries = [tars.Entry(path, data, owner=_BUILT_UID) for path, data in sorted(files.items())]
            await engine.put_archive(container, containers.source_folder(spec, image), tars.stream(entries))
        if not await self._inputs.intact(volumes.values()):
            raise Unavailable("an input was removed from the engine", reason="INPUT_GONE")
        return container

    async def _begin_again(self, attempt: Attempt) -> ContainerId | leases_pb2.AttemptResult | None:
        """Start the container that was made to be started and was not; None: it is gone."""
        found = await self._inspect(containers.container_name(attempt.spec.run, attempt.grant.epoch))
        if found is not None and found.state is ContainerState.CREATED:
            return await self._start(attempt, found.id)
        return await self._found(attempt)

    async def _start(
        self, attempt: Attempt, container: ContainerId
    ) -> ContainerId | leases_pb2.AttemptResult:
        if not await attempt.starts():
            await asyncio.Event().wait()  # the order to stop ends this; on its wake it could still start
        try:
            await self._tools.engine.start(container)
        except (InvalidArgument, NotFound, Internal) as error:
            return failures.from_start_error(error.message, containers.command_line(attempt.spec))
        self._output_log(attempt).begins()
        attempt.started(container, boottime())
        attempt.tell("running")
        return container

    def _build_log(self, attempt: Attempt) -> LogWriter:
        if attempt.spec.build_only:  # nothing else is printed
            return self._output_log(attempt)
        return self._tools.logs.writer(attempt.spec.run, attempt.grant.epoch, logs_pb2.LOG_STREAM_BUILD)

    def _output_log(self, attempt: Attempt) -> LogWriter:
        return self._tools.logs.writer(attempt.spec.run, attempt.grant.epoch, logs_pb2.LOG_STREAM_OUTPUT)

    async def _create(self, name: str, config: dict[str, object]) -> ContainerId:
        engine = self._tools.engine
        try:
            return await to_the_end(engine.create(name, config))
        except AlreadyExists:  # its maker did not get to start it
            await engine.remove(name)
            return await to_the_end(engine.create(name, config))

    async def _wait(self, attempt: Attempt, container: ContainerId) -> tuple[Container | None, bool]:
        """Wait for a container's end; return it, and whether the engine failed to answer meanwhile.

        None: it is gone, and nobody knows how it ended.
        """
        away = False
        while True:
            try:
                return await self._tools.engine.wait(container), away
            except NotFound:
                return None, away
            except Unavailable as error:
                away = True
                attempt.tell(error.message)
                await self._tools.health.back()

    async def _note_exit(
        self, attempt: Attempt, ended: Container, log: _Log, *, engine_was_away: bool
    ) -> None:
        """Report how a container ended; returns when that is on disk: only then it may be told."""
        assert ended.exit is not None  # noqa: S101 - as the port says
        at = boottime() if ended.finished_at is None else to_boottime(ended.finished_at)
        expired = self._journal.expired(attempt.grant)
        blamed = EndedBy.PROGRAM
        signalled = attempt.lease.signalled_at
        if attempt.lease.exit is None and expired is None and (signalled is None or at < signalled):
            blamed = await blame(self._tools.engine, ended, was_away=engine_was_away)
        attempt.exited(Exit(ended.exit, at, log.size, blamed), expired)
        await attempt.exit_kept.wait()

    async def _ship(self, container: ContainerId, writer: LogWriter, log: _Log) -> Skipper:
        """Ship what a container prints until it has ended; return what is there to skip beyond."""
        done = await writer.position()
        first = Skipper(done)
        while True:
            again = Skipper(log.size)
            try:
                async for data in self._tools.engine.logs(container, follow=True):
                    new = again.feed(data)
                    log.feed(new)
                    await writer.write(first.feed(new))
            except Unavailable:
                await self._tools.health.back()
            except NotFound:
                return first
            else:
                return first


def _judge(attempt: Attempt, log_tail: str = "") -> leases_pb2.AttemptResult:
    """Make the result of an attempt from how its container ended, and from what was ordered before."""
    ended = attempt.lease.exit
    if stop := attempt.lease.stopped_by():
        code = ended.status.code if ended else None
        return stopped_result(stop.reason, code, attempt.spec.limits)
    if ended is None:
        return failures.failed(
            runs_pb2.FAILURE_CAUSE_CONTROL_PLANE,
            "The run's container was removed from the engine before it was read.",
            log_tail,
        )
    return failures.from_exit(
        ended.status,
        containers.command_line(attempt.spec),
        attempt.spec.docker.memory_bytes,
        log_tail,
        ended.ended_by,
    )
