"""The fast path's time limits, each with its own words, and what it makes of servers that speak no HTTP."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.errors import (
    UpstreamBroke,
    UpstreamConnectTimedOut,
    UpstreamTimedOut,
    UpstreamUnreachable,
)
from proxy.upstream.http import HttpUpstream

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
LONG_S = 60.0


@pytest.fixture
async def upstream(wire, limits, metrics):
    made = []

    def make(url=None, **values):
        made.append(HttpUpstream(limits(url=url or wire.url, **values), metrics))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def read(upstream):
    """Send a request, read its answer to the end and return it."""
    response = await upstream.send("POST", "/x", headers={}, body=b"{}", purpose="client")
    try:
        chunks = []
        while chunk := await response.next_chunk():
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        await response.close()


async def test_the_limit_for_a_connection(upstream):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers TLS
        made = upstream(f"https://127.0.0.1:{silent.getsockname()[1]}", connect_timeout_s=0.05)
        with pytest.raises(UpstreamConnectTimedOut, match=r"within 0\.05 s \(upstream\.connect_timeout_s\)"):
            await read(made)


@pytest.mark.parametrize(
    ("limit", "seconds", "before", "words"),
    [
        ("first_byte_timeout_s", 0.1, b"", "sent no answer within"),
        ("first_byte_timeout_s", 0.1, STREAM[:20], "sent no answer within"),
        ("first_token_timeout_s", 0.1, STREAM, "sent headers and then nothing for"),
        ("idle_timeout_s", 0.1, STREAM + b"data: 1\n\n", "in the middle of its answer"),
        ("total_timeout_s", 0.1, b"", "sent no answer within"),
        # Long enough for the headers to arrive on a machine that does something else.
        ("total_timeout_s", 1.5, STREAM + b"data: 1\n\n", "took longer than"),
    ],
)
async def test_the_limits_of_an_answer(wire, upstream, limit, seconds, before, words):
    async def script(exchange):
        if before:
            await exchange.send(before)
        await exchange.gone.wait()

    wire.script = script
    with pytest.raises(UpstreamTimedOut) as caught:
        await read(upstream(**{limit: seconds}))
    assert words in caught.value.message
    assert f"{seconds:g} s" in caught.value.message
    assert f"upstream.{limit}" in caught.value.message
    async with asyncio.timeout(30):
        await wire.exchanges[0].gone.wait()


async def test_a_first_token_may_come_later_than_the_next_ones(wire, upstream):
    seen = asyncio.Event()

    async def script(exchange):
        await exchange.send(STREAM)
        await seen.wait()
        await exchange.send(b"data: 1\n\n")

    wire.script = script
    response = await upstream(first_token_timeout_s=LONG_S, idle_timeout_s=0.05).send(
        "POST", "/x", headers={}, purpose="client"
    )
    waiting = asyncio.create_task(response.next_chunk())
    await asyncio.wait({waiting}, timeout=0.15)
    assert not waiting.done()
    seen.set()
    assert await waiting == b"data: 1\n\n"
    await response.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\x16\x03\x01garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(20_000)) + b"\r\n",
    ],
    ids=["binary", "ssh", "status", "header", "length", "long-header", "many-headers"],
)
async def test_what_is_no_http(wire, upstream, sent):
    async def script(exchange):
        await exchange.send(sent)
        await exchange.gone.wait()

    wire.script = script
    with pytest.raises(UpstreamBroke, match="no valid HTTP answer") as caught:
        await read(upstream(first_byte_timeout_s=30))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


async def test_a_chunk_that_is_none(wire, upstream):
    async def script(exchange):
        await exchange.send(STREAM[:-2] + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\nno chunk\r\n")
        await exchange.gone.wait()

    wire.script = script
    with pytest.raises(UpstreamBroke):
        await read(upstream())


@pytest.mark.parametrize("mode", ["off", "observe"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_odd_bytes_in_a_header_pass_unchanged(wire, start_proxy, mode, path):
    odd = [b"x-utf: Gr\xc3\xbc\xc3\x9fe", b"x-latin: Gr\xfc\xdfe"]

    async def script(exchange):
        await exchange.send(b"\r\n".join([b"HTTP/1.1 200 OK", b"content-length: 2", *odd]) + b"\r\n\r\n{}")

    wire.script = script
    proxy = await start_proxy(mode, url=wire.url)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    async with proxy.session.post(f"{proxy.url}{path}", json=body) as response:
        assert response.status == 200
        received = [name.lower() + b": " + value for name, value in response.raw_headers]
    assert [line for line in odd if line not in received] == []


@pytest.mark.parametrize("part", [b"", STREAM[:-2]])
async def test_an_end_before_the_headers(wire, upstream, part):
    async def script(exchange):
        if part:
            await exchange.send(part)

    wire.script = script
    with pytest.raises(UpstreamUnreachable, match="it closed the connection before it had answered"):
        await read(upstream())


async def test_a_reset_before_the_headers(wire, upstream):
    async def script(exchange):
        exchange.reset()

    wire.script = script
    with pytest.raises(UpstreamUnreachable):
        await read(upstream())
