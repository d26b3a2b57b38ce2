"""Work that gives way, and trying again."""

import asyncio

import pytest

from towline.errors import InvalidArgument, Unavailable
from towline_agent.retry import retrying
from towline_agent.stopping import Stopped, to_the_end, unless


async def test_work_that_ends_first_gives_its_result_or_error() -> None:
    async def fails() -> int:
        raise ValueError("as it is, in no group")

    async def works() -> int:
        return 7

    assert await unless(asyncio.Event(), works()) == 7
    with pytest.raises(ValueError, match="as it is"):
        await unless(asyncio.Event(), fails())


@pytest.mark.parametrize("before", [True, False])
async def test_work_that_gives_way_cleans_up(before: bool) -> None:
    event, cleaned = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        try:
            if not before:
                event.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    if before:
        event.set()
    assert isinstance(await unless(event, works()), Stopped)
    assert cleaned.is_set()


async def test_a_cancel_from_outside_is_a_cancel() -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(unless(asyncio.Event(), asyncio.Event().wait()))
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


async def test_only_what_trying_again_can_heal_is_tried_again() -> None:
    calls = []

    async def heals() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("away", reason="X")
        return "done"

    told: list[str] = []
    assert await retrying(heals, what="it", patience_s=None, waiting=told.append) == "done"
    assert told == ["away"]

    async def wrong() -> None:
        calls.append(1)
        raise InvalidArgument("wrong", reason="X")

    calls.clear()
    with pytest.raises(InvalidArgument):
        await retrying(wrong, what="it", patience_s=None)
    assert len(calls) == 1


async def test_patience_ends() -> None:
    async def away() -> None:
        raise Unavailable("away", reason="X")

    with pytest.raises(Unavailable):
        await retrying(away, what="it", patience_s=0.0)


@pytest.mark.parametrize("cancels", [0, 1])
async def test_what_the_other_side_may_carry_out_is_waited_for(cancels: int) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def request() -> int:
        asked.set()
        await answered.wait()
        return 7

    async with asyncio.TaskGroup() as group:
        task = group.create_task(to_the_end(request()))
        await asked.wait()
        for _ in range(cancels):
            task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        answered.set()
    assert task.cancelled() == bool(cancels)
    assert task.cancelled() or task.result() == 7


async def test_what_goes_wrong_in_it_is_raised_as_it_is() -> None:
    async def fails() -> int:
        raise ValueError("as it is, in no group")

    with pytest.raises(ValueError, match="as it is"):
        await to_the_end(fails())
