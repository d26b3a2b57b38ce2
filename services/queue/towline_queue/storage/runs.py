"""Runs in PostgreSQL: how the API makes and moves them.

A waiting run has exactly one row in `ready` or `scheduled`. Who deletes that row, and nobody else,
moves the run on: so a cancel and a dispatcher that reach for the same run take the same locks in the
same order, and one of them finds nothing.
"""

import json
from collections.abc import Sequence
from typing import Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import FailedPrecondition, Internal, ResourceExhausted
from towline.names import RunName
from towline.v1 import runs_pb2
from towline_queue.core.limits import max_wait_of
from towline_queue.core.submission import NewRun
from towline_queue.core.transitions import ACTIVE, CANCEL_WAITING, TERMINAL, WAITING, State
from towline_queue.storage.queues import spec_digest
from towline_queue.storage.run_records import RunRecord, not_found
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import queue_specs, ready, runs, scheduled

__all__ = ["cancel", "ended", "insert", "preempt"]

_INSERT: Final = statement("insert_runs")
# Each round that changes nothing means that somebody else moved the run in between.
_CANCEL_ROUNDS: Final = 20


async def insert(connection: AsyncConnection, new: Sequence[NewRun]) -> list[RunRecord]:
    """Store runs, waiting, in the order given, and return them; `queues.share_specs` holds their queues."""
    specs = [run.spec.SerializeToString(deterministic=True) for run in new]
    max_waits = [max_wait_of(run.spec.limits) for run in new]
    stored = await connection.execute(
        _INSERT,
        {
            "names": [run.spec.run for run in new],
            "queues": [run.spec.queue for run in new],
            "priorities": [run.priority for run in new],
            "shapes": [run.spec.docker.gpus for run in new],
            "states": [run.state for run in new],
            "job_versions": [run.spec.job_version for run in new],
            "display_names": [run.spec.display_name for run in new],
            "authors": [run.spec.author for run in new],
            "labels": [json.dumps(dict(run.labels)) for run in new],
            "variables": [json.dumps(dict(run.variables)) for run in new],
            "specs": specs,
            "queue_specs": [spec_digest(run.queue_spec) for run in new],
            "retries_of": [run.retry_of for run in new],
            "due_times": [run.due for run in new],
            "max_waits": max_waits,
            "retry_policies": [run.spec.retry_policy.SerializeToString() for run in new],
            "queued": State.QUEUED,
            "scheduled": State.SCHEDULED,
        },
    )
    return [
        RunRecord(
            name=RunName(run.spec.run),
            seq=row.seq,
            queue=run.spec.queue,
            priority=run.priority,
            shape=run.spec.docker.gpus,
            state=run.state,
            job_version=run.spec.job_version,
            display_name=run.spec.display_name,
            author=run.spec.author,
            labels=run.labels,
            variables=run.variables,
            spec=spec,
            retry_of=run.retry_of,
            create_time=row.create_time,
            due_time=run.due,
            expire_time=None if run.due or max_wait is None else row.create_time + max_wait,
        )
        for run, spec, max_wait, row in zip(new, specs, max_waits, stored.all(), strict=True)
    ]


async def ended(connection: AsyncConnection, name: RunName) -> NewRun:
    """Return a run that has ended, as it was submitted.

    Raises:
        NotFound: RUN_NOT_FOUND.
        FailedPrecondition: It has not ended; RUN_NOT_ENDED.
    """
    row = (
        await connection.execute(
            select(runs, queue_specs.c.spec.label("queue_spec_text"))
            .join(queue_specs, queue_specs.c.digest == runs.c.queue_spec)
            .where(runs.c.name == name)
        )
    ).one_or_none()
    if row is None:
        raise not_found(name)
    if row.state not in TERMINAL:
        raise FailedPrecondition(
            f"{name} has not ended, it is {State(row.state).name}; wait for it or cancel it, then retry",
            reason="RUN_NOT_ENDED",
            metadata={"run": name, "state": State(row.state).name},
        )
    return NewRun(
        spec=runs_pb2.LaunchSpec.FromString(row.spec),
        priority=row.priority,
        variables=row.variables,
        labels=row.labels,
        due=None,
        retry_of=row.retry_of,
        queue_spec=row.queue_spec_text,
    )


async def cancel(connection: AsyncConnection, name: RunName) -> None:
    """Cancel a waiting run, or ask for an active one to be stopped; leave one that has ended as it is.

    Raises:
        NotFound: RUN_NOT_FOUND.
        ResourceExhausted: The run changed hands all the time; OVERLOADED.
    """
    for _ in range(_CANCEL_ROUNDS):
        state = (
            await connection.execute(select(runs.c.state).where(runs.c.name == name))
        ).scalar_one_or_none()
        if state is None:
            raise not_found(name)
        if state in TERMINAL:
            return
        if state in WAITING and await _cancel_waiting(connection, name):
            return
        if state in ACTIVE and await _request_cancel(connection, name):
            return
    raise ResourceExhausted(f"{name} changes too fast to be cancelled; try again", reason="OVERLOADED")


async def _cancel_waiting(connection: AsyncConnection, name: RunName) -> bool:
    for table in (scheduled, ready):
        taken = await connection.execute(delete(table).where(table.c.run == name))
        if taken.rowcount:
            break
    else:
        return False
    failure = runs_pb2.Failure(
        cause=runs_pb2.FAILURE_CAUSE_CANCELLED, message="Somebody asked for it to stop while it was waiting."
    )
    moved = await connection.execute(
        update(runs)
        .where(runs.c.name == name, runs.c.state.in_(CANCEL_WAITING.sources))
        .values(
            state=CANCEL_WAITING.target,
            state_detail="",
            cancel_requested=True,
            failure=failure.SerializeToString(),
            end_time=func.now(),
        )
    )
    if moved.rowcount != 1:  # keeps the row that was taken
        raise Internal(f"{name} was in {table.name} but is not waiting", reason="INTERNAL")
    return True


async def _request_cancel(connection: AsyncConnection, name: RunName) -> bool:
    asked = await connection.execute(
        update(runs).where(runs.c.name == name, runs.c.state.in_(ACTIVE)).values(cancel_requested=True)
    )
    return asked.rowcount == 1


async def preempt(connection: AsyncConnection, name: RunName) -> None:
    """Ask for a run's current attempt to be stopped and the run to be queued again.

    Raises:
        NotFound: RUN_NOT_FOUND.
        FailedPrecondition: No agent holds it; RUN_NOT_ACTIVE.
    """
    # By its epoch, so that the wish is void for the next attempt.
    asked = await connection.execute(
        update(runs).where(runs.c.name == name, runs.c.state.in_(ACTIVE)).values(preempt_epoch=runs.c.epoch)
    )
    if asked.rowcount:
        return
    state = (await connection.execute(select(runs.c.state).where(runs.c.name == name))).scalar_one_or_none()
    if state is None:
        raise not_found(name)
    raise FailedPrecondition(
        f"{name} is {State(state).name}; only a run that an agent holds can be preempted",
        reason="RUN_NOT_ACTIVE",
        metadata={"run": name, "state": State(state).name},
    )
