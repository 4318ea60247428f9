"""A client that leaves, seen by the application alone."""

from __future__ import annotations

import asyncio

import pytest

from proxy.asgi import ClientGone, send_reply, while_connected
from proxy.exchange import Reply
from proxy.time_limits import TimeLimit

LONG_S = 60.0
SHORT_S = 0.01


async def nobody_asks():
    raise AssertionError("the connection was looked at")


async def test_quick_work_is_not_watched():
    async def work():
        await asyncio.sleep(0)
        return "done"

    assert await while_connected(nobody_asks, work(), TimeLimit(LONG_S)) == "done"


async def test_work_whose_client_leaves_is_over_when_that_is_told():
    over = asyncio.Event()

    async def work():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            over.set()

    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        await while_connected(receive, work(), TimeLimit(SHORT_S))
    assert over.is_set()


async def test_work_that_is_watched_may_end():
    watched, left_alone = asyncio.Event(), asyncio.Event()

    async def receive():
        watched.set()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            left_alone.set()

    async def work():
        await watched.wait()
        return "done"

    async with asyncio.timeout(30):
        assert await while_connected(receive, work(), TimeLimit(SHORT_S)) == "done"
    assert left_alone.is_set()


async def test_an_error_of_the_work_is_raised():
    async def work():
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await while_connected(nobody_asks, work(), TimeLimit(LONG_S))


@pytest.mark.parametrize("raw", [b"plain", "Grüße 你好".encode(), b"latin-1 \xfc\xdf"])
async def test_a_headers_bytes_go_out_as_they_came_in(raw):
    sent = []

    async def send(message):
        sent.append(message)

    await send_reply(Reply(200, {"x-odd": raw.decode("utf-8", "surrogateescape")}, b""), send)
    assert (b"x-odd", raw) in sent[0]["headers"]
