"""Lists of runs: whatever requests brought them, each is listed once, newest first."""

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from towline.names import QueueName
from towline.service.postgres import connecting, migrate, transaction
from towline.v1 import runs_pb2
from towline_queue.core.kinds import Kind
from towline_queue.making import new_names
from towline_queue.storage import run_lists
from towline_queue.storage.database import opening
from towline_queue.storage.new_runs import NewKind, NewRuns, store
from towline_queue.storage.run_lists import RunFilter

KIND = Kind(
    b"",
    QueueName("queues/a"),
    runs_pb2.PRIORITY_MEDIUM,
    0,
    "jobs/j/versions/v0",
    "ann",
    {},
    {},
    "",
    b"",
    None,
    b"",
    (),
)
KINDS = [
    replace(KIND, queue=QueueName(f"queues/{queue}"), job_version=f"jobs/{job}", author=author)
    for queue in ("a", "b")
    for job in ("j/versions/v0", "j/versions/v1", "k/versions/v0")
    for author in ("ann", "bob")
]
# How long runs of one kind come after each other, at most, and how many runs requests have.
REQUESTS = [
    (1, 1),
    (1, 1),
    (50, 50),
    (3, 60),
    (1, 40),
    (1000, 1000),
    (400, 1000),
    (1, 1),
    (7, 30),
    (200, 300),
]


@pytest.fixture
async def engine(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    async with connecting(empty_database_url) as engine:
        await migrate(engine, schema="queue", scripts="towline_queue:migrations")
        yield engine


def request(choices: random.Random, longest: int, runs: int) -> NewRuns:
    kinds = choices.sample(KINDS, choices.randint(1, len(KINDS)))
    numbers: list[int] = []
    while len(numbers) < runs:
        numbers += [choices.randint(1, len(kinds))] * choices.randint(1, longest)
    names, _ = new_names(runs)
    made = [NewKind(kind, None, None) for kind in kinds]
    return NewRuns(None, b"", made, names, [name.encode() for name in names], numbers[:runs])


async def pages(engine: AsyncEngine, wanted: RunFilter, size: int) -> list[str]:
    names: list[str] = []
    before = None
    while True:
        async with transaction(engine) as connection:
            page = await run_lists.newest_first(
                connection, wanted, before=before, size=size, most_bytes=1 << 23
            )
        names += [record.name for record in page.records]
        assert len(page.records) <= size
        if (before := page.after) is None:
            return names


@pytest.fixture
async def stored(engine: AsyncEngine) -> dict[str, Kind]:
    """Store runs of many kinds, several requests in a statement; return the kind of each."""
    choices = random.Random(7)
    requests = [request(choices, longest, runs) for longest, runs in REQUESTS]
    async with transaction(engine) as connection:
        for queue in ("a", "b"):
            await connection.exec_driver_sql(
                f"INSERT INTO queue.queues (name, spec, lost_after) VALUES ('queues/{queue}', '', '1 min')"
            )
    async with opening(engine, size=1) as database:
        for first in range(0, len(requests), 3):
            await store(database, requests[first : first + 3])
    return {
        name: one.kinds[number - 1].kind
        for one in requests
        for name, number in zip(one.names, one.run_kinds, strict=True)
    }


FILTERS: dict[str, tuple[RunFilter, Callable[[Kind], bool]]] = {
    "all": (RunFilter(), lambda _: True),
    "queue": (RunFilter(queue="queues/a"), lambda kind: kind.queue == "queues/a"),
    "other queue": (RunFilter(queue="queues/c"), lambda _: False),
    "job": (RunFilter(job="jobs/j"), lambda kind: kind.job_version.startswith("jobs/j/")),
    "version": (RunFilter(job="jobs/j/versions/v1"), lambda kind: kind.job_version == "jobs/j/versions/v1"),
    "author": (RunFilter(author="bob"), lambda kind: kind.author == "bob"),
    "queue and author": (
        RunFilter(queue="queues/b", author="ann"),
        lambda kind: (kind.queue, kind.author) == ("queues/b", "ann"),
    ),
    "queue and job": (
        RunFilter(queue="queues/b", job="jobs/k"),
        lambda kind: (kind.queue, kind.job_version) == ("queues/b", "jobs/k/versions/v0"),
    ),
    "nobody": (RunFilter(queue="queues/a", author="eve"), lambda _: False),
}


async def test_each_run_is_listed_once_newest_first(engine: AsyncEngine, stored: dict[str, Kind]) -> None:
    for what, (wanted, matches) in FILTERS.items():
        expected = sorted((name for name, kind in stored.items() if matches(kind)), reverse=True)
        for size in (7, 50, 1000):
            assert await pages(engine, wanted, size) == expected, (what, size)


async def test_a_look_ends_and_is_gone_on_with(
    engine: AsyncEngine, stored: dict[str, Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that finds nothing among so many runs says where to go on."""
    monkeypatch.setattr(run_lists, "_LOOKED_AT_FIRST", 3)
    monkeypatch.setattr(run_lists, "_MOST_LOOKED_AT", 10)
    oldest = min(name for name, kind in stored.items() if kind.queue == "queues/a")
    wanted = RunFilter(queue="queues/a", author=stored[oldest].author)
    expected = sorted(
        (name for name, kind in stored.items() if (kind.queue, kind.author) == ("queues/a", wanted.author)),
        reverse=True,
    )
    assert await pages(engine, wanted, 50) == expected


async def test_only_the_first_run_of_a_span_is_in_the_indexes_of_lists(
    engine: AsyncEngine, stored: dict[str, Kind]
) -> None:
    """Which is what makes a submission of many cheap."""
    async with transaction(engine) as connection:
        rows = (
            await connection.exec_driver_sql("SELECT name, span_size, span_end FROM queue.runs ORDER BY name")
        ).all()
    firsts = [row for row in rows if row.span_size]
    assert len(firsts) < len(rows) / 2
    assert sum(row.span_size for row in firsts) == len(rows)
    place = {row.name: number for number, row in enumerate(rows)}
    for first in firsts:
        begin = place[first.name]
        span = rows[begin : begin + first.span_size]
        assert (first.span_end or first.name) == span[-1].name
        assert len({(stored[row.name].queue, stored[row.name].job_version) for row in span}) == 1
