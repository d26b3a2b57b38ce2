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
    true,
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
_LOOKED_AT_FIRST: Final = 1000
_NEWEST_FIRST: Final = runs.c.name.desc()
_AFTER_ALL: Final = "runs0"  # "0" is the character after "/"
_span = (
    select(runs.c.name)
    .where(runs.c.name >= ready.c.first_run)
    .order_by(runs.c.name)
    .limit(ready.c.size)
    .lateral("span")
)
_WAITING_RUNS: Final[Select[Any]] = select(_span.c.name).select_from(ready.join(_span, true()))


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
    """Runs to look at, and the last name among them; None: they reach to the oldest."""

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
    rows: list[Row[Any]] = []
    after = None
    async for scope in _scopes(connection, wanted, before or _AFTER_ALL, size):
        found = RECORDS.where(*scope.conditions, *_conditions(wanted)).order_by(_NEWEST_FIRST)
        async for row in _stream(connection, found.limit(size + 1 - len(rows))):
            most_bytes -= len(row.spec) + len(row.results or b"")
            if len(rows) == size or (rows and most_bytes < 0):
                return Page(await run_records.records(connection, rows), rows[-1].name)
            rows.append(row)
        after = scope.end
    return Page(await run_records.records(connection, rows), after)


async def _scopes(
    connection: AsyncConnection, wanted: RunFilter, before: str, size: int
) -> AsyncIterator[_Scope]:
    older = runs.c.name < before
    if wanted.states and TERMINAL.isdisjoint(wanted.states):
        live = await _live(connection, wanted)
        if len(live) <= _MOST_LOOKED_AT:
            yield _Scope([runs.c.name == any_(_texts(live)), older])
            return
    filtered = bool(wanted.author or wanted.labels or wanted.states)
    if wanted.queue or wanted.job:
        # What is listed is what was asked for, where nothing else was.
        whole = not filtered and not (wanted.queue and wanted.job)
        looks = (size + 1,) if whole else (_LOOKED_AT_FIRST, _MOST_LOOKED_AT - _LOOKED_AT_FIRST)
        async for scope in _listed(connection, wanted, before, looks):
            yield scope
    elif filtered:
        last = select(runs.c.name).where(older).order_by(_NEWEST_FIRST).offset(_MOST_LOOKED_AT - 1).limit(1)
        end = (await connection.execute(last)).scalar_one_or_none()
        yield _Scope([older] if end is None else [older, runs.c.name >= end], end)
    else:
        yield _Scope([older])


async def _listed(
    connection: AsyncConnection, wanted: RunFilter, before: str, looks: Sequence[int]
) -> AsyncIterator[_Scope]:
    """Give a job's or a queue's runs, newest first, as many at each look."""
    if wanted.job:
        scope = {"queues": [], "job_versions": await _versions(connection, wanted.job)}
    else:
        scope = {"queues": [wanted.queue], "job_versions": []}
    for most in looks:
        asked = scope | {"before": before, "most": most}
        names = list((await connection.execute(statement("run_spans"), asked)).scalars())
        end = names[-1] if len(names) == most else None
        yield _Scope([runs.c.name == any_(_texts(names))], end)
        if end is None:
            return
        before = end


async def _versions(connection: AsyncConnection, job: str) -> list[str]:
    """Return those of a job's versions that have runs, or the version that is meant."""
    if "/versions/" in job:
        return [job]
    values = {"first": f"{job}/versions/", "end": f"{job}/versions0"}
    return list((await connection.execute(statement("run_versions"), values)).scalars())


async def _live(connection: AsyncConnection, wanted: RunFilter) -> list[str]:
    """Return the names of runs that may be in the states, none of which is terminal; see _MOST_LOOKED_AT."""
    places: list[Select[Any]] = []
    if not ACTIVE.isdisjoint(wanted.states):
        places.append(_of_queue(select(leases.c.run), leases.c.queue, wanted))
    if State.QUEUED in wanted.states:
        places.append(_of_queue(_WAITING_RUNS, ready.c.queue, wanted))
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
