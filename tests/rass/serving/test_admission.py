"""Places and pages are handed out in turn and never lost."""

from __future__ import annotations

import asyncio

import pytest

from rass.serving.admission import Admission
from rass.serving.errors import QueueFull, Unavailable


def admission(places: int = 2, pages: int = 10, max_waiting: int = 4, wait_limit_s: float = 10.0) -> Admission:
    return Admission(places=places, pages=pages, max_waiting=max_waiting, wait_limit_s=wait_limit_s)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_first_come_first_served_even_if_a_later_one_would_fit():
    gate = admission()
    await gate.enter(6)
    large = asyncio.create_task(gate.enter(5))
    small = asyncio.create_task(gate.enter(1))
    await settle()
    assert (gate.running, gate.waiting, gate.used_pages) == (1, 2, 6)
    gate.leave(6)
    await settle()
    assert large.done()
    assert small.done()
    assert (gate.running, gate.waiting, gate.used_pages) == (2, 0, 6)


async def test_one_who_gives_up_lets_the_next_pass():
    gate = admission()
    await gate.enter(6)
    large, small = asyncio.create_task(gate.enter(5)), asyncio.create_task(gate.enter(1))
    await settle()
    large.cancel()
    await settle()
    assert small.done()
    assert gate.waiting == 0


async def test_a_place_granted_to_one_who_is_cancelled_in_that_moment_is_not_lost():
    gate = admission(places=1)
    await gate.enter(1)
    waiting = asyncio.create_task(gate.enter(1))
    await settle()
    gate.leave(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (gate.running, gate.used_pages) == (0, 0)


async def test_one_too_many_is_turned_away():
    gate = admission(places=1, max_waiting=1)
    await gate.enter(1)
    waiting = asyncio.create_task(gate.enter(1))
    await settle()
    with pytest.raises(QueueFull):
        await gate.enter(1)
    gate.leave(1)
    await waiting
    assert (gate.running, gate.waiting, gate.used_pages) == (1, 0, 1)


async def test_a_wait_that_is_too_long_ends():
    gate = admission(places=1, wait_limit_s=0.01)
    await gate.enter(1)
    with pytest.raises(Unavailable, match=r"0\.01 s"):
        await gate.enter(1)
    gate.leave(1)
    assert (gate.running, gate.waiting, gate.used_pages) == (0, 0, 0)


async def test_everyone_who_waits_is_refused_when_the_engine_fails():
    gate = admission(places=1)
    await gate.enter(1)
    waiting = [asyncio.create_task(gate.enter(1)) for _ in range(3)]
    await settle()
    gate.refuse_all("the thread died")
    for one in waiting:
        with pytest.raises(Unavailable, match="died"):
            await one
    gate.leave(1)
    assert gate.running == 0
