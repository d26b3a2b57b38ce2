"""Group commit: what comes together is carried out together, in order, and once each."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from towline.errors import Unavailable
from towline_queue.group_commit import GroupCommit

Apply = Callable[[Sequence[int]], Awaitable[Sequence[int]]]


@asynccontextmanager
async def running(apply: Apply, **options: int) -> AsyncIterator[GroupCommit[int, int]]:
    group_commit = GroupCommit[int, int](apply, **options)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(group_commit.run())
        yield group_commit
        task.cancel()


async def submit_all(group_commit: GroupCommit[int, int], items: Sequence[int]) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(group_commit.submit(item)) for item in items]
    return [task.result() for task in tasks]


async def test_what_arrives_during_a_transaction_is_the_next_one():
    batches: list[list[int]] = []
    first = asyncio.Event()
    go = asyncio.Event()

    async def apply(items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        first.set()
        await go.wait()
        return [item * 10 for item in items]

    async with running(apply, most=3) as group_commit, asyncio.TaskGroup() as group:
        early = group.create_task(group_commit.submit(1))
        await first.wait()
        late = [group.create_task(group_commit.submit(item)) for item in (2, 3, 4, 5)]
        await asyncio.sleep(0)
        go.set()
        assert await early == 10
        assert [await task for task in late] == [20, 30, 40, 50]
    assert batches == [[1], [2, 3, 4], [5]]


async def test_an_outage_is_outlasted():
    calls = 0

    async def apply(items: Sequence[int]) -> Sequence[int]:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise Unavailable("away", reason="DATABASE_UNAVAILABLE")
        return items

    async with running(apply) as group_commit:
        assert await submit_all(group_commit, [1, 2]) == [1, 2]
    assert calls == 3


async def test_one_bad_item_fails_alone():
    async def apply(items: Sequence[int]) -> Sequence[int]:
        if 2 in items:
            raise ValueError("two")
        return items

    async with running(apply) as group_commit, asyncio.TaskGroup() as group:
        good = [group.create_task(group_commit.submit(item)) for item in (1, 3)]
        with pytest.raises(ValueError, match="two"):
            await group_commit.submit(2)
        assert [await task for task in good] == [1, 3]


async def test_nobody_waits_for_ever_when_the_service_stops():
    started = asyncio.Event()

    async def apply(items: Sequence[int]) -> Sequence[int]:
        started.set()
        await asyncio.Event().wait()
        return items

    group_commit = GroupCommit[int, int](apply, most=1)
    async with asyncio.TaskGroup() as group:
        runner = group.create_task(group_commit.run())
        group.create_task(_refused(group_commit))
        group.create_task(_refused(group_commit))
        await started.wait()
        runner.cancel()


async def _refused(group_commit: GroupCommit[int, int]) -> None:
    with pytest.raises(Unavailable, match="stops"):
        await group_commit.submit(1)
