"""A client that leaves ends the upstream's work at once, wherever its request is by then."""

from __future__ import annotations

import asyncio

import pytest

from proxy.exchange import Mode

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}}]}\n\n'
AT_ONCE_S = 30  # far below every limit that would end the work without the client's leaving


async def leave(asking):
    """End a client's connection."""
    asking.cancel()
    await asyncio.wait({asking})


async def gone(exchange):
    """Wait until the proxy has closed its connection to the upstream."""
    async with asyncio.timeout(AT_ONCE_S):
        await exchange.gone.wait()


def left(proxy, mode):
    return proxy.total("rass_requests_total", outcome="client-gone", mode=mode) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", list(Mode))
async def test_before_the_answer_has_begun(wire, start_proxy, eventually, mode, stream):
    async def script(exchange):
        await exchange.gone.wait()

    wire.script = script
    proxy = await start_proxy(mode, url=wire.url)
    asking = asyncio.create_task(proxy.ask("hello", stream=stream))
    await wire.arrived.wait()
    await leave(asking)
    await gone(wire.exchanges[0])
    await eventually(lambda: left(proxy, mode))
    assert len(wire.exchanges) == 1


@pytest.mark.parametrize("mode", list(Mode))
async def test_in_the_middle_of_a_stream(wire, start_proxy, eventually, mode):
    async def script(exchange):
        await exchange.send(HEAD + EVENT)
        await exchange.gone.wait()

    wire.script = script
    proxy = await start_proxy(mode, url=wire.url, stream={"head_ms": 1})
    body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    response = await proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body)
    assert await response.content.readany() == EVENT
    response.close()
    await gone(wire.exchanges[0])
    await eventually(lambda: left(proxy, mode))


async def test_in_the_middle_of_a_whole_answer(wire, start_proxy, eventually):
    sent = asyncio.Event()

    async def script(exchange):
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        sent.set()
        await exchange.gone.wait()

    wire.script = script
    proxy = await start_proxy(Mode.OBSERVE, url=wire.url)
    asking = asyncio.create_task(proxy.ask("hello"))
    await sent.wait()
    await leave(asking)
    await gone(wire.exchanges[0])
    await eventually(lambda: left(proxy, "observe"))


async def test_while_waiting_for_a_place(wire, answer, start_proxy, eventually):
    release = asyncio.Event()

    async def script(exchange):
        await release.wait()
        await exchange.send(answer(b"{}"))

    wire.script = script
    proxy = await start_proxy(Mode.OBSERVE, url=wire.url, upstream={"connections": 1, "queue_length": 1})
    first = asyncio.create_task(proxy.ask("hello"))
    await wire.arrived.wait()
    queued = asyncio.create_task(proxy.ask("hello"))
    await eventually(lambda: proxy.total("rass_upstream_queue_length", lane="client") == 1)
    await leave(queued)
    await eventually(lambda: proxy.total("rass_upstream_queue_length", lane="client") == 0)
    third = asyncio.create_task(proxy.ask("hello"))  # there is room in the queue again
    await eventually(lambda: proxy.total("rass_upstream_queue_length", lane="client") == 1)
    release.set()
    assert (await first)[0] == (await third)[0] == 200
    assert len(wire.exchanges) == 2
    assert left(proxy, "observe")


async def test_while_waiting_to_be_sent_again(wire, answer, start_proxy, eventually):
    async def script(exchange):
        await exchange.send(answer(b"{}", status="503 Busy", retry_after="5"))

    wire.script = script
    proxy = await start_proxy(Mode.OBSERVE, url=wire.url, upstream={"connections": 1, "queue_length": 0})
    asking = asyncio.create_task(proxy.ask("hello"))
    await eventually(lambda: proxy.total("rass_upstream_retries_total", reason="503") == 1)
    await leave(asking)
    await eventually(lambda: left(proxy, "observe"))

    async def well(exchange):
        await exchange.send(answer(b"{}"))

    wire.script = well
    assert (await proxy.ask("hello"))[0] == 200  # its place is free
    assert len(wire.exchanges) == 2


async def test_while_an_attempt_runs(wire, answer, start_proxy, eventually, refusal):
    attempted = asyncio.Event()

    async def script(exchange):
        if exchange.path == "/v1/rass/read":
            await exchange.send(answer(b'{"h": -7.0, "rho": 1.0, "answer_h": null, "bundle": "0123456789abcdef"}'))
        elif exchange.steered:
            attempted.set()
            await exchange.gone.wait()
        else:
            text = f'{{"choices": [{{"index": 0, "message": {{"content": "{refusal}"}}}}]}}'
            await exchange.send(answer(text.encode()))

    wire.script = script
    proxy = await start_proxy(Mode.RECOVER, url=wire.url)
    asking = asyncio.create_task(proxy.ask("hello"))
    async with asyncio.timeout(30):
        await attempted.wait()
    await leave(asking)
    await gone(wire.exchanges[-1])
    await eventually(lambda: left(proxy, "recover"))
