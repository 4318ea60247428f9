"""The load generator: it counts what went wrong, and what it asks of the scripted upstream comes back right."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.load_client import Load, Order, Window, drive
from benchmarks.load_targets import shipped_bundle
from benchmarks.scripted_upstream import EVENTS, Fate, ScriptedUpstream, answer_to, prompt_for, stream_events
from detectors.bundle import load

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def driven(url: str, *loads: Load) -> list[Window]:
    own = os.getpid()
    windows: list[Window] = []
    await drive(Order(url, "m", {"x-extra": "1"}, own, own, None, loads, 0.1, 2), windows.append)
    return windows


async def test_every_load_of_the_scripted_upstream_is_answered() -> None:
    upstream = ScriptedUpstream(load(shipped_bundle()), 0.0001)
    connections = 0

    def connected() -> asyncio.Protocol:
        nonlocal connections
        connections += 1
        return upstream()

    server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        whole, stream = await driven(url, Load(4, False), Load(4, True))
    for window in (whole, stream):
        assert window.requests >= 4
        assert window.failed == 0
        assert 0 < window.first_chunk_ms <= window.p50_ms <= window.p99_ms
        assert window.cpu_us_per_request > 0
    assert upstream.counts.open == 0
    assert upstream.counts.most_open == 4
    # Four for each load and for its warm-up: a connection for each request would be what is measured.
    assert connections == 16


async def test_wrong_answers_and_cut_ones_are_failures_and_the_rest_counts() -> None:
    turn = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        while await reader.readline():
            await reader.readuntil(b"}]")
            await reader.readuntil(b"}")
            turn += 1
            body = b"no" if turn % 3 == 1 else json.dumps(answer_to("m1")).encode()
            status = b"200 OK" if turn % 3 else b"503 Later"
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
            if turn % 5 == 0:
                writer.write(b"nonsense")
            await writer.drain()
        writer.close()

    async with serving(handler) as url:
        (window,) = await driven(url, Load(1, False))
    assert 0 < window.failed < window.requests
    assert window.failure


async def test_an_answer_that_is_no_http_costs_one_request_and_not_those_after_it() -> None:
    turn = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        while await reader.readline():
            await reader.readuntil(b"}]")
            await reader.readuntil(b"}")
            turn += 1
            body = json.dumps(answer_to("m1")).encode()
            # The third is the first that counts: two are the warm-up.
            writer.write(
                b"nonsense" if turn == 3 else b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            await writer.drain()
        writer.close()

    async with serving(handler) as url:
        (window,) = await driven(url, Load(1, False))
    assert window.failed == 1 < window.requests


async def test_a_target_that_answers_nothing_right_has_failures_and_no_figures() -> None:
    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving(handler) as url:
        (window,) = await driven(url, Load(1, False))
    assert window.failed == window.requests > 0
    assert window.failure == "the connection was closed in the middle"
    assert math.isnan(window.p50_ms)
    assert math.isnan(window.cpu_us_per_request)
    assert window.requests_per_s == 0


def test_a_stream_has_its_events_and_its_text() -> None:
    report = {"steered": True}
    events = stream_events(answer_to("m7"), "m", report)
    assert len(events) == EVENTS
    assert events[-1] == b"data: [DONE]\n\n"
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert chunks[0]["rass"] == report
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == answer_to("m7")
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("fate", list(Fate))
def test_the_upstream_judges_and_answers_a_prompt_by_its_fate(fate: Fate) -> None:
    bundle = load(shipped_bundle())
    upstream = ScriptedUpstream(bundle, 0.0)
    messages = [{"role": "user", "content": prompt_for(fate, "m9")}]
    plain, nothing = upstream.answer({"messages": messages})
    steered, report = upstream.answer({"messages": messages, "rass": {"steer": {"vector": "v", "strength": 1}}})
    assert (plain == answer_to("m9")) is (fate is Fate.ANSWERED)
    assert (steered == answer_to("m9")) is (fate is not Fate.WARRANTED)
    assert "m9" in plain
    assert nothing is None
    assert report is not None
    read = upstream.read({"messages": messages})
    assert bundle.zone(read["h"], "en") == ("harmful" if fate is Fate.WARRANTED else "benign")
