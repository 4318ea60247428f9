"""Limits that pass and limits that hold, and work that is ended from outside."""

from __future__ import annotations

import asyncio

import pytest

from proxy.time_limits import Interruption, TimeLimit, Within

LONG_S = 60.0
SHORT_S = 0.01


class Late(Exception):
    pass


async def never():
    await asyncio.get_running_loop().create_future()


async def test_work_that_lasts_too_long_is_ended_with_the_error():
    with pytest.raises(Late), Within(TimeLimit(SHORT_S), Late):
        await never()


async def test_work_within_its_limit_is_left_alone():
    limit = TimeLimit(LONG_S)
    with Within(limit, Late):
        await asyncio.sleep(0)
    with Within(limit, Late):
        pass


async def test_each_of_many_is_told_in_turn():
    limit, told, over = TimeLimit(SHORT_S), [], asyncio.Event()
    limit.start(lambda: told.append("first"))
    stopped = limit.start(lambda: told.append("stopped"))
    limit.start(lambda: told.append("second"))
    limit.start(over.set)
    limit.stop(stopped)
    limit.stop(stopped)
    async with asyncio.timeout(30):
        await over.wait()
    assert told == ["first", "second"]


async def test_one_that_starts_later_has_its_whole_time():
    loop = asyncio.get_running_loop()
    limit, begun, told = TimeLimit(0.05), [], loop.create_future()

    def start_another():
        begun.append(loop.time())
        limit.start(lambda: told.set_result(loop.time()))

    limit.start(start_another)
    async with asyncio.timeout(30):
        assert await told - begun[0] >= 0.049


async def test_a_limit_goes_on_after_nobody_was_left():
    limit = TimeLimit(SHORT_S)
    limit.stop(limit.start(lambda: pytest.fail("it was stopped")))
    with pytest.raises(Late), Within(limit, Late):
        await never()
    with pytest.raises(Late), Within(limit, Late):
        await never()


async def test_only_the_first_interruption_counts():
    async def work():
        with Interruption() as interruption:
            interruption.interrupt(Late)
            interruption.interrupt(ValueError)
            await never()

    with pytest.raises(Late):
        await work()


async def test_an_interruption_after_the_end_does_nothing():
    with Interruption() as interruption:
        pass
    interruption.interrupt(lambda: pytest.fail("the error of work that is over was made"))
    await asyncio.sleep(0)


async def test_an_error_of_the_work_itself_stays():
    async def work():
        with Interruption() as interruption:
            try:
                interruption.interrupt(Late)
                await never()
            except asyncio.CancelledError:
                raise ValueError("its own") from None

    with pytest.raises(ValueError, match="its own"):
        await work()


async def test_whoever_cancels_the_task_as_well_is_obeyed():
    entered = asyncio.Event()
    interruptions = []

    async def work():
        with Interruption() as interruption:
            interruptions.append(interruption)
            entered.set()
            await never()

    task = asyncio.create_task(work())
    await entered.wait()
    interruptions[0].interrupt(Late)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_the_inner_limit_ends_only_the_inner_work():
    with Within(TimeLimit(LONG_S), ValueError):
        with pytest.raises(Late), Within(TimeLimit(SHORT_S), Late):
            await never()
        await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0
