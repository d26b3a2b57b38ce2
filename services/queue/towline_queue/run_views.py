"""Runs as clients see them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.names import RunName
from towline.v1 import leases_pb2, runs_pb2
from towline_queue.core.explain import QueueFacts, explain_waiting
from towline_queue.core.transitions import State
from towline_queue.storage import facts, run_records
from towline_queue.storage.run_records import AttemptRecord, RunRecord

__all__ = ["placed", "timestamp", "view", "views"]


async def view(connection: AsyncConnection, name: RunName) -> runs_pb2.Run:
    """Return a run as it is now, with its place in its queue; NotFound/RUN_NOT_FOUND if there is none."""
    return await placed(connection, await run_records.get(connection, name))


async def placed(connection: AsyncConnection, record: RunRecord) -> runs_pb2.Run:
    """Return a run with its place in its queue."""
    ahead = None
    if record.state is State.QUEUED:
        ahead = await facts.count_ahead(connection, record.queue, priority=record.priority, seq=record.seq)
    run = (await views(connection, [record], ahead))[0]
    run.queue_position = -1 if ahead is None else ahead
    return run


async def views(
    connection: AsyncConnection, records: Sequence[RunRecord], ahead: int | None = None
) -> list[runs_pb2.Run]:
    """Return runs with why they wait; their places are not counted."""
    waiting = {record.queue for record in records if record.waits}
    about = await facts.queue_facts(connection, waiting)
    return [_message(record, _detail(record, about, ahead)) for record in records]


def timestamp(time: datetime | None) -> Timestamp | None:
    """Translate a moment."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def _detail(record: RunRecord, about: Mapping[str, QueueFacts], ahead: int | None) -> str:
    if not record.waits:
        return record.state_detail
    why = explain_waiting(
        about[record.queue],
        gpus=record.shape,
        ahead=ahead,
        due=record.due_time,
        expires=record.expire_time,
    )
    # What is kept may be a sentence, such as an agent's message.
    return "; ".join(filter(None, [record.state_detail.rstrip("."), why]))


def _message(record: RunRecord, detail: str) -> runs_pb2.Run:
    spec = runs_pb2.LaunchSpec.FromString(record.spec)
    results = leases_pb2.AttemptResult.FromString(record.results or b"")
    return runs_pb2.Run(
        name=record.name,
        display_name=spec.display_name,
        queue=record.queue,
        job_version=record.job_version,
        priority=cast("runs_pb2.Priority.ValueType", record.priority),
        config_json=spec.config_json,
        variables=record.variables,
        author=record.author,
        state=cast("runs_pb2.RunState.ValueType", record.state),
        state_detail=detail,
        cancel_requested=record.cancel_requested,
        unreachable=record.unreachable,
        failure=_failure(record.failure),
        attempts=[_attempt(attempt) for attempt in record.attempts],
        outputs=record.outputs,
        create_time=timestamp(record.create_time),
        end_time=timestamp(record.end_time),
        queue_position=-1,
        retry_of=record.retry_of,
        labels=record.labels,
        due_time=timestamp(record.due_time),
        limits=spec.limits,
        retry_policy=spec.retry_policy,
        preempt_requested=record.preempt_requested,
        inputs=spec.inputs,
        summary_json=results.summary_json,
        logged_artifacts=results.logged_artifacts,
        build_only=spec.build_only,
    )


def _attempt(record: AttemptRecord) -> runs_pb2.Attempt:
    return runs_pb2.Attempt(
        epoch=record.epoch,
        agent=record.agent,
        times=runs_pb2.AttemptTimes(
            lease_time=timestamp(record.lease_time),
            prepare_time=timestamp(record.prepare_time),
            start_time=timestamp(record.start_time),
            end_time=timestamp(record.end_time),
            image_time=timestamp(record.image_time),
            first_output_time=timestamp(record.first_output_time),
        ),
        image_outcome=cast("runs_pb2.ImageOutcome.ValueType", record.image_outcome),
        image_id=record.image_id,
        gpu_ids=record.gpu_ids,
        exit_code=record.exit_code,
        failure=_failure(record.failure),
        outcome=cast("runs_pb2.AttemptOutcome.ValueType", record.outcome),
        outputs=record.outputs,
        image=None if record.image_facts is None else runs_pb2.AttemptImage.FromString(record.image_facts),
    )


def _failure(failure: bytes | None) -> runs_pb2.Failure | None:
    return None if failure is None else runs_pb2.Failure.FromString(failure)
