"""Runs that were submitted together wait in few rows; taken, cancelled, counted and failed, each is a run."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy import text

from towline.names import RunName
from towline.service.postgres import transaction
from towline_queue.core.dispatch import HandedOut, Search
from towline_queue.core.leases import SessionKey
from towline_queue.core.matching import Lane, Offer, spread
from towline_queue.core.transitions import State
from towline_queue.storage import queues, runs, upkeep
from towline_queue.storage.claims import Claims
from towline_queue.storage.facts import count_ahead
from towline_queue.storage.run_lists import RunFilter, newest_first
from towline_queue.storage.run_records import get
from towline_queue.storage.tables import MAX_WAITING
from towline_testing.queue_rows import QUEUE, QueueRows, queue_rows

LANE = Lane(QUEUE, 0)


@pytest.fixture
async def rows(database_url: str) -> AsyncIterator[QueueRows]:
    async with queue_rows(database_url) as rows:
        yield rows


def claimer(rows: QueueRows, session: SessionKey) -> Callable[[int], Awaitable[HandedOut]]:
    """Return what claims as many runs as asked, as a replica of its own would."""
    claims = Claims(rows.database)

    async def claim(most: int) -> HandedOut:
        offer = Offer(session.id, session.agent, (QUEUE,), most, frozenset(), 0)
        search = Search(LANE, most, anew=False)
        return await claims.hand_out([offer], [search], lambda offers, _: spread(offers, LANE, most))

    return claim


def names(handed_out: HandedOut) -> list[str]:
    return [lease.key.run for lease in handed_out.claimed]


async def waiting(rows: QueueRows) -> list[tuple[str, int]]:
    """Return the first run and the size of each span, in order."""
    return [tuple(row) for row in await rows.sql("SELECT first_run, size FROM queue.ready ORDER BY seq")]


async def cancel(rows: QueueRows, run: str) -> None:
    await rows.api(runs.cancel, RunName(run))


async def test_claims_of_any_size_take_each_run_once_and_in_order(rows: QueueRows) -> None:
    submitted = await rows.submit_together(2 * MAX_WAITING + 7) + [await rows.submit()]
    assert [size for _, size in await waiting(rows)] == [MAX_WAITING, MAX_WAITING, 7, 1]
    claim = claimer(rows, await rows.session())
    taken: list[str] = []
    for most in (1, 2, MAX_WAITING - 3, MAX_WAITING + 1, 4):
        handed_out = await claim(most)
        assert (len(handed_out.claimed), handed_out.dry) == (most, frozenset())
        taken += names(handed_out)
    assert await waiting(rows) == [(submitted[-3], 2), (submitted[-1], 1)]
    last = await claim(5)
    assert (last.dry, last.held) == ({LANE}, frozenset())
    assert taken + names(last) == submitted
    assert await waiting(rows) == []


@pytest.mark.parametrize("place", [0, 1, 5, 8, 9])
async def test_one_that_is_cancelled_leaves_the_others_where_they_were(rows: QueueRows, place: int) -> None:
    submitted = await rows.submit_together(10)
    await cancel(rows, submitted[place])
    assert (await rows.run(submitted[place])).state == State.CANCELLED
    submitted.pop(place)
    assert sum(size for _, size in await waiting(rows)) == 9
    claim = claimer(rows, await rows.session())
    assert names(await claim(4)) + names(await claim(9)) == submitted


async def test_cancels_of_all_of_a_span_at_once_all_succeed(rows: QueueRows) -> None:
    submitted = await rows.submit_together(MAX_WAITING)
    async with asyncio.TaskGroup() as group:
        for run in submitted:
            group.create_task(cancel(rows, run))
    assert await waiting(rows) == []
    assert [(await rows.run(run)).state for run in submitted] == [State.CANCELLED] * MAX_WAITING


async def test_replicas_and_cancels_that_reach_for_the_same_runs_share_them_out(rows: QueueRows) -> None:
    submitted = await rows.submit_together(3 * MAX_WAITING)
    chosen = random.Random(1).sample(submitted, MAX_WAITING)
    taken: list[str] = []

    async def work(agent: str) -> None:
        claim = claimer(rows, await rows.session(agent))
        sizes = random.Random(agent)
        while not (handed_out := await claim(sizes.randint(1, 20))).dry:
            taken.extend(names(handed_out))
        taken.extend(names(handed_out))

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(work(f"agents/a{number}"))
        for run in chosen:
            group.create_task(cancel(rows, run))
    cancelled = {run for run in submitted if (await rows.run(run)).state == State.CANCELLED}
    assert len(taken) == len(set(taken))
    assert set(taken) | cancelled == set(submitted)
    assert not cancelled & set(taken)
    asked = await rows.sql("SELECT run FROM queue.leases WHERE stop_requested IS NOT NULL")
    assert cancelled | {row.run for row in asked} == set(chosen)


async def test_what_another_holds_is_told_apart_from_nothing(rows: QueueRows) -> None:
    submitted = await rows.submit_together(3)
    claim = claimer(rows, await rows.session())
    async with transaction(rows.engine) as holding:
        await holding.execute(text("SELECT FROM queue.ready FOR UPDATE"))
        handed_out = await claim(2)
        assert (names(handed_out), handed_out.dry, handed_out.held) == ([], frozenset(), {LANE})
    assert names(await claim(2)) == submitted[:2]


async def test_each_run_of_a_span_is_seen_where_it_stands(rows: QueueRows) -> None:
    submitted = await rows.submit_together(10)
    later = await rows.submit()
    assert names(await claimer(rows, await rows.session())(2)) == submitted[:2]
    async with transaction(rows.engine) as connection:
        for ahead, run in enumerate([*submitted[2:], later]):
            record = await get(connection, RunName(run))
            assert record.state is State.QUEUED
            place = {"priority": record.priority, "seq": record.seq}
            assert await count_ahead(connection, QUEUE, **place) == ahead
        assert (await get(connection, RunName(submitted[0]))).state is State.LEASED
        wanted = RunFilter(queue=QUEUE, states=[State.QUEUED])
        page = await newest_first(connection, wanted, before=None, size=99, most_bytes=10**6)
        assert [record.name for record in page.records] == [later, *reversed(submitted[2:])]
        counts = (await queues.get(connection, QUEUE)).counts
        assert (counts.waiting, counts.active) == (9, 2)


async def test_all_of_a_span_that_waited_for_too_long_fail(rows: QueueRows) -> None:
    expired = await rows.submit_together(5, max_wait=timedelta(minutes=1))
    patient = await rows.submit_together(2)
    await rows.sql("UPDATE queue.ready SET expire_time = expire_time - interval '61 s'")
    assert sorted(await rows.do(upkeep.expire_waiting)) == expired
    assert [(await rows.run(run)).state for run in expired] == [State.FAILED] * 5
    assert await waiting(rows) == [(patient[0], 2)]
