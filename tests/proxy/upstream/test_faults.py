"""Upstreams that break, at every byte, through the whole application: no hang, no mixed answer, no lost place.

What a client may see of a broken stream is a beginning of the original, then at most one error event; or an error in
OpenAI's shape where nothing of the answer had gone out yet.
"""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from proxy.answers import StreamReader
from proxy.exchange import Mode
from proxy.wires.chat import CHAT

DIGEST = "0123456789abcdef"
ANSWER_TEXT = "Grüße 你好"
STEERED_TEXT = "Use kill."
LIMIT_S = 240
# Few places, so that a single one that is lost stops the test; no retries and no breaker, so that each fault is seen.
UPSTREAM = {"connections": 4, "side_connections": 4, "retries": 0, "circuit_failures": 0, "queue_time_limit_s": LIMIT_S}
READING = json.dumps({"h": -7.0, "rho": 1.0, "answer_h": -7.0, "bundle": DIGEST, "prompt_tokens": 3}).encode()


def stream_of(text: str, **more: object) -> bytes:
    """A small event stream."""
    deltas = [{"role": "assistant"}, {"content": text[:5]}, {"content": text[5:]}, {}]
    events = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}], **more}
        for delta in deltas
    ]
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events) + b"data: [DONE]\n\n"


def text_of(body: bytes) -> str:
    reader = StreamReader(CHAT.gather({}))
    reader.feed(body)
    return reader.answer().texts[0]


def check_broken(status: int, body: bytes, original: bytes) -> None:
    """Hold what a client saw against what it may see."""
    if status != 200:
        error = json.loads(body)["error"]
        assert (status, error["code"]) in ((502, "upstream_broke"), (502, "upstream_unreachable"))
        return
    begun, found, rest = body.partition(b'data: {"error"')
    if found:
        begun = begun.removesuffix(b"\n\n") if not original.startswith(begun) else begun
        event = json.loads((found + rest).removeprefix(b"data: "))
        assert event["error"]["code"] in ("upstream_broke", "upstream_timeout")
        assert (found + rest).endswith(b"\n\n")
    assert original.startswith(begun)


async def for_each_cut(proxy, count, ask):
    """Ask once for each cut, a few at a time."""
    turn = asyncio.Semaphore(8)

    async def one(cut):
        async with turn:
            return cut, await ask(cut)

    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*(one(cut) for cut in range(count)))


def cutting(answer, original, framing, *, reset=False):
    """A script that answers with ``original`` up to the byte that the request names, and speaks the native wire."""
    wire_bytes = answer(original, content_type="text/event-stream", framing=framing)
    steered = answer(
        stream_of(STEERED_TEXT, rass={"steered": True, "vector": "v", "h": 0.0, "bundle": DIGEST}),
        content_type="text/event-stream",
    )

    async def script(exchange):
        if exchange.path == "/v1/rass/read":
            await exchange.send(answer(READING))
        elif exchange.steered:
            await exchange.send(steered)
        else:
            await exchange.send(wire_bytes[: int(exchange.headers["x-cut"])])
            if reset:
                exchange.reset()

    return script, wire_bytes


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.RECOVER])
async def test_an_answer_cut_at_every_byte(wire, answer, start_proxy, mode, framing):
    original = stream_of(ANSWER_TEXT)
    wire.script, wire_bytes = cutting(answer, original, framing)
    proxy = await start_proxy(mode, url=wire.url, upstream=UPSTREAM)
    head = wire_bytes.index(b"\r\n\r\n") + 4

    async def ask(cut):
        return await proxy.ask("hello", stream=True, headers={"x-cut": str(cut)})

    for cut, (status, _, body) in await for_each_cut(proxy, len(wire_bytes) + 1, ask):
        if cut == len(wire_bytes):
            assert (status, body) == (200, original)
            continue
        check_broken(status, body, original)
        assert (status == 200) or cut < head or mode is Mode.RECOVER
        if framing == "chunked" and status == 200:
            assert body.count(b'"error"') == 1
    assert proxy.total("rass_requests_total", outcome="recovered", mode=mode) == 0


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_refusal_cut_at_every_byte(wire, answer, start_proxy, refusal, framing):
    """A recovered answer takes the original's place only where the original is whole."""
    original = stream_of(refusal)
    wire.script, wire_bytes = cutting(answer, original, framing)
    proxy = await start_proxy(Mode.RECOVER, url=wire.url, upstream=UPSTREAM)

    async def ask(cut):
        return await proxy.ask("hello", stream=True, headers={"x-cut": str(cut)})

    for cut, (status, headers, body) in await for_each_cut(proxy, len(wire_bytes) + 1, ask):
        if cut == len(wire_bytes):
            assert headers["x-rass-action"] == "recovered"
            assert text_of(body) == STEERED_TEXT
        else:
            assert headers.get("x-rass-action") != "recovered"
            check_broken(status, body, original)


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.RECOVER])
async def test_a_reset_at_every_byte(wire, answer, start_proxy, mode):
    original = stream_of("ok")
    wire.script, wire_bytes = cutting(answer, original, "chunked", reset=True)
    proxy = await start_proxy(mode, url=wire.url, upstream=UPSTREAM)

    async def ask(cut):
        return await proxy.ask("hello", stream=True, headers={"x-cut": str(cut)})

    for _, (status, _, body) in await for_each_cut(proxy, len(wire_bytes), ask):
        check_broken(status, body, original)


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.RECOVER])
async def test_a_whole_answer_cut_at_every_byte(wire, answer, start_proxy, mode):
    original = json.dumps({"choices": [{"index": 0, "message": {"content": ANSWER_TEXT}}]}).encode()
    wire_bytes = answer(original)

    async def script(exchange):
        await exchange.send(wire_bytes[: int(exchange.headers["x-cut"])])

    wire.script = script
    proxy = await start_proxy(mode, url=wire.url, upstream=UPSTREAM)

    async def ask(cut):
        return await proxy.ask("hello", headers={"x-cut": str(cut)})

    head = wire_bytes.index(b"\r\n\r\n") + 4
    for cut, (status, _, body) in await for_each_cut(proxy, len(wire_bytes) + 1, ask):
        if cut == len(wire_bytes):
            assert (status, body) == (200, original)
        else:
            code = "upstream_broke" if cut >= head else "upstream_unreachable"
            assert (status, json.loads(body)["error"]["code"]) == (502, code)


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.RECOVER])
async def test_a_stream_that_stalls(wire, answer, start_proxy, mode):
    original = stream_of(ANSWER_TEXT)
    begun = original[: original.index(b"data: [DONE]")]

    async def script(exchange):
        await exchange.send(answer(begun, content_type="text/event-stream", framing="close"))
        await exchange.gone.wait()

    wire.script = script
    proxy = await start_proxy(mode, url=wire.url, upstream={**UPSTREAM, "idle_timeout_s": 0.1})
    async with asyncio.timeout(30):
        status, _, body = await proxy.ask("hello", stream=True)
    assert status == 200
    assert body.startswith(begun)
    assert json.loads(body.removeprefix(begun).removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
    async with asyncio.timeout(30):
        await wire.exchanges[0].gone.wait()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", list(Mode))
async def test_garbage_instead_of_an_answer(wire, start_proxy, mode, stream):
    async def script(exchange):
        await exchange.send(b"\x16\x03\x01\x00\xff garbage \r\n\r\n")
        await exchange.gone.wait()

    wire.script = script
    proxy = await start_proxy(mode, url=wire.url, upstream=UPSTREAM)
    status, _, body = await proxy.ask("hello", stream=stream)
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_broke")


@pytest.mark.parametrize("mode", list(Mode))
async def test_garbage_inside_a_stream_is_the_clients_to_see(wire, answer, start_proxy, mode):
    """What is no JSON, no event and no UTF-8 passes unchanged: the proxy repairs nothing and breaks nothing."""
    original = b'data: {\n\n\xff\xfe\x00: \r\rdata: [1, 2]\n\ndata: "x"\n\ndata: {"choices": [7]}\n\nno field\n\n'

    async def script(exchange):
        await exchange.send(answer(original, content_type="text/event-stream", framing="close"))

    wire.script = script
    proxy = await start_proxy(mode, url=wire.url, upstream=UPSTREAM)
    status, _, body = await proxy.ask("hello", stream=True)
    assert (status, body) == (200, original)


@pytest.mark.parametrize("mode", list(Mode))
async def test_headers_that_are_too_large(wire, answer, start_proxy, mode):
    async def script(exchange):
        await exchange.send(answer(b"{}", x_large="x" * 100_000))

    wire.script = script
    proxy = await start_proxy(mode, url=wire.url, upstream=UPSTREAM)
    status, _, body = await proxy.ask("hello")
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_broke")


async def test_an_upstream_that_comes_back(wire, answer, start_proxy):
    """Failing, left alone, tried by one request while the others are told to wait, and used again."""
    good = json.dumps({"choices": [{"index": 0, "message": {"content": "hi"}}]}).encode()
    well = asyncio.Event()

    async def script(exchange):
        if exchange.path == "/v1/models":
            await exchange.send(answer(b'{"object": "list", "data": []}'))
        elif well.is_set():
            await exchange.send(answer(good))
        else:
            exchange.reset()

    wire.script = script
    limits = {"circuit_failures": 3, "circuit_open_s": 1, "retry_backoff_s": 0.001}
    proxy = await start_proxy(Mode.OBSERVE, url=wire.url, upstream=limits)
    assert (await proxy.ask("hello"))[0] == 502
    assert (await proxy.ask("hello"))[0] == 503
    assert len(wire.exchanges) == 3  # one request, sent three times
    well.set()
    for _ in range(5000):
        status, headers, _ = await proxy.ask("hello")
        if status == 200:
            break
        assert (status, headers["retry-after"]) == (503, "1")
        await asyncio.sleep(0.01)
    assert status == 200
    assert proxy.total("rass_upstream_circuit", upstream="model", state="closed") == 1
    statuses = [status for status, _, _ in await asyncio.gather(*(proxy.ask("hello") for _ in range(10)))]
    assert statuses == [200] * 10


async def test_a_relayed_answer_that_breaks_before_its_first_byte_is_an_error(wire, answer, start_proxy):
    """Mode off too waits for a body whose length is known to begin, so that the client gets more than a cut one."""
    original = json.dumps({"choices": []}).encode()
    wire_bytes = answer(original)

    async def script(exchange):
        await exchange.send(wire_bytes[: int(exchange.headers["x-cut"])])

    wire.script = script
    proxy = await start_proxy(Mode.OFF, url=wire.url, upstream=UPSTREAM)
    head = wire_bytes.index(b"\r\n\r\n") + 4
    status, _, body = await proxy.ask("hello", headers={"x-cut": str(head)})
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_broke")
    status, headers, body = await proxy.ask("hello", headers={"x-cut": str(len(wire_bytes))})
    assert (status, body, headers["content-length"]) == (200, original, str(len(original)))
    with pytest.raises(aiohttp.ClientPayloadError):
        await proxy.ask("hello", headers={"x-cut": str(head + 3)})


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad Request"])
async def test_an_answer_too_long_to_judge_that_breaks_is_counted_once(wire, start_proxy, eventually, status):
    async def script(exchange):
        head = b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n"
        await exchange.send(head + b"x" * 2000)

    wire.script = script
    proxy = await start_proxy(upstream={"url": wire.url, **UPSTREAM}, limits={"max_judged_bytes": 1000})
    with pytest.raises(aiohttp.ClientPayloadError):
        await proxy.ask("hello")
    await eventually(lambda: proxy.total("rass_requests_total", outcome="failed") == 1)
    assert proxy.total("rass_requests_total") == 1
