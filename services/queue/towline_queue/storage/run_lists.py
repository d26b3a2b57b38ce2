"""Pages of runs, newest first: names sort by time.

A page looks at a bounded number of runs, whatever the filter and however many there are, so it may end
before it is full: the next one then goes on where it stopped.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Row,
    Select,
    Text,
    and_,
    any_,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from towline_queue.core.transitions import ACTIVE, TERMINAL, State
from towline_queue.storage import run_records
from towline_queue.storage.run_records import LIVE_STATE, RECORDS, RunRecord
from towline_queue.storage.statements import statement
from towline_queue.storage.tables import leases, ready, runs, scheduled

__all__ = ["Page", "RunFilter", "newest_first"]

_MOST_LOOKED_AT: Final = 10_000
_NEWEST_FIRST: Final = runs.c.name.desc()
_AFTER_ALL: Final = "runs0"  # "0" is the character after "/"


@dataclass(frozen=True)
class RunFilter:
    """Which runs; what is empty holds for all.

    Attributes:
        queue: "queues/{queue}".
        job: "jobs/{job}", or one version of it.
        states: Any of these.
        author: Exactly.
        labels: All of these.
    """

    queue: str = ""
    job: str = ""
    states: Sequence[int] = ()
    author: str = ""
    labels: dict[str, str] = field(default_factory=dict)


class Page(NamedTuple):
    """Some runs, newest first, and the name after which the next page begins; None: there is none."""

    records: list[RunRecord]
    after: str | None


class _Scope(NamedTuple):
    """What an index leads to, and the last name that it reaches; None: to the oldest."""

    conditions: Sequence[ColumnElement[bool]]
    end: str | None = None


async def newest_first(
    connection: AsyncConnection, wanted: RunFilter, *, before: str | None, size: int, most_bytes: int
) -> Page:
    """Return a page of runs.

    Args:
        connection: The transaction.
        wanted: Which runs.
        before: Only those with a lower name; None: all.
        size: Most runs to return.
        most_bytes: Bound of their specs and results together; the first run is returned in any case.
    """
    scope = await _scope(connection, wanted, before or _AFTER_ALL, size)
    query = RECORDS.where(*scope.conditions, *_conditions(wanted)).order_by(_NEWEST_FIRST).limit(size + 1)
    rows: list[Row[Any]] = []
    after = scope.end
    async for row in _stream(connection, query):
        most_bytes -= len(row.spec) + len(row.results or b"")
        if len(rows) == size or (rows and most_bytes < 0):
            after = rows[-1].name
            break
        rows.append(row)
    return Page(await run_records.records(connection, rows), after)


async def _scope(connection: AsyncConnection, wanted: RunFilter, before: str, size: int) -> _Scope:
    older = runs.c.name < before
    if wanted.states and TERMINAL.isdisjoint(wanted.states):
        live = await _live(connection, wanted)
        if len(live) <= _MOST_LOOKED_AT:
            return _Scope([runs.c.name == any_(_texts(live)), older])
    filtered = bool(wanted.author or wanted.labels or wanted.states or (wanted.queue and wanted.job))
    if wanted.job and "/versions/" not in wanted.job:
        return await _of_job(connection, wanted.job, before, _MOST_LOOKED_AT if filtered else size + 1)
    in_index = [older]
    if wanted.job:
        in_index.append(runs.c.job_version == wanted.job)
    elif wanted.queue:
        in_index.append(runs.c.queue == wanted.queue)
    if not filtered:
        return _Scope(in_index)
    last = select(runs.c.name).where(*in_index).order_by(_NEWEST_FIRST).offset(_MOST_LOOKED_AT - 1).limit(1)
    return _up_to((await connection.execute(last)).scalar_one_or_none(), in_index)


async def _of_job(connection: AsyncConnection, job: str, before: str, most: int) -> _Scope:
    values = {"first": f"{job}/versions/", "end": f"{job}/versions0", "before": before, "most": most}
    found = (await connection.execute(statement("run_versions"), values)).one()
    return _up_to(found.last, [runs.c.job_version == any_(_texts(found.versions)), runs.c.name < before])


def _up_to(last: str | None, in_index: list[ColumnElement[bool]]) -> _Scope:
    return _Scope(in_index if last is None else [*in_index, runs.c.name >= last], last)


async def _live(connection: AsyncConnection, wanted: RunFilter) -> list[str]:
    """Return the names of runs that may be in the states, none of which is terminal; see _MOST_LOOKED_AT."""
    places: list[Select[Any]] = []
    if not ACTIVE.isdisjoint(wanted.states):
        places.append(_of_queue(select(leases.c.run), leases.c.queue, wanted))
    if State.QUEUED in wanted.states:
        places.append(_of_queue(select(ready.c.run), ready.c.queue, wanted))
    if State.SCHEDULED in wanted.states:
        places.append(select(scheduled.c.run))
    return list((await connection.execute(union_all(*places).limit(_MOST_LOOKED_AT + 1))).scalars())


def _of_queue(names: Select[Any], queue: ColumnElement[str], wanted: RunFilter) -> Select[Any]:
    return names.where(queue == wanted.queue) if wanted.queue else names


def _conditions(wanted: RunFilter) -> list[ColumnElement[bool]]:
    """Return all that holds for wanted runs, but for the job's versions."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.queue:
        conditions.append(runs.c.queue == wanted.queue)
    if wanted.states:
        conditions.append(_in_states(wanted.states))
    if wanted.author:
        conditions.append(runs.c.author == wanted.author)
    if wanted.labels:
        conditions.append(runs.c.labels.contains(wanted.labels))
    return conditions


def _in_states(states: Collection[int]) -> ColumnElement[bool]:
    ended = runs.c.state.in_(TERMINAL.intersection(states))
    live = and_(runs.c.state.is_(None), LIVE_STATE.in_(set(states) - TERMINAL))
    if TERMINAL.isdisjoint(states):
        return live
    return ended if TERMINAL.issuperset(states) else or_(ended, live)


def _texts(names: Sequence[str]) -> ColumnElement[Any]:
    return literal(list(names), ARRAY(Text))


async def _stream(connection: AsyncConnection, query: Select[Any]) -> AsyncIterator[Row[Any]]:
    """Give rows as they come, so that a page of large runs is not read whole to be cut."""
    async with connection.stream(query) as result:
        async for row in result:
            yield row
