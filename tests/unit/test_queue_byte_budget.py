"""Bytes that are on their way, over all callers."""

import asyncio

import pytest

from towline_queue.byte_budget import ByteBudget


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_needs_more_than_is_left_waits_in_order() -> None:
    budget = ByteBudget(10)
    took: list[int] = []

    async def take(size: int) -> None:
        await budget.take(size)
        took.append(size)

    async with asyncio.TaskGroup() as tasks:
        for size in (8, 5, 1, 10):
            tasks.create_task(take(size))
        await settle()
        assert took == [8]  # 1 would fit, but 5 was there before
        budget.give(8)
        await settle()
        assert took == [8, 5, 1]
        budget.give(5)
        await settle()
        assert took == [8, 5, 1]
        budget.give(1)
        await settle()
        assert took == [8, 5, 1, 10]


async def test_one_that_is_gone_holds_nobody_up() -> None:
    budget = ByteBudget(10)
    await budget.take(4)
    async with asyncio.TaskGroup() as tasks:
        gone = tasks.create_task(budget.take(9))
        behind = tasks.create_task(budget.take(6))
        await settle()
        assert not behind.done()
        gone.cancel()
        await behind


async def test_what_came_to_one_that_is_gone_comes_back() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    waiter = asyncio.Task(budget.take(10))
    await settle()
    budget.give(10)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await asyncio.wait_for(budget.take(10), timeout=1)
