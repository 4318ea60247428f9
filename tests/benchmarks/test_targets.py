from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from benchmarks.errors import InputError, TargetError
from benchmarks.launch import free_port
from benchmarks.targets import Answer, Client, Limits, Target, in_parallel, parse_target
from detectors.verdict import Message

Server = Callable[[Callable[[dict[str, Any]], tuple[int, str, dict[str, str]]]], Awaitable[str]]
FAST = Limits(concurrency=4, timeout_s=5.0, attempts=3, pause_s=0.001)
ASK = [Message("user", "hello")]


@pytest.mark.parametrize(
    "text", ["raw=http://host:1", "raw=http://host:1/", "raw=http://host:1/v1", "raw=http://host:1/v1/"]
)
def test_reads_targets(text: str) -> None:
    assert parse_target(text) == Target("raw", "http://host:1")


@pytest.mark.parametrize("text", ["http://host:1", "raw=", "=http://host:1", "raw=host:1", "raw=ftp://host"])
def test_says_how_a_target_is_written(text: str) -> None:
    with pytest.raises(InputError, match="is not NAME=URL, for example"):
        parse_target(text)


async def test_returns_text_and_the_headers_of_the_proxy(chat_server: Server) -> None:
    bodies: list[dict[str, Any]] = []

    def rule(body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        bodies.append(body)
        return 200, "hello to you", {"X-Rass-Action": "delivered"}

    async with Client.open(Target("t", await chat_server(rule)), FAST, {}) as client:
        assert await client.model() == "small"
        answer = await client.complete("small", ASK, {"temperature": 0})
    assert answer == Answer("hello to you", None, {"x-rass-action": "delivered"})
    assert answer.header("zone") is None
    assert bodies == [{"model": "small", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}]


async def test_tries_again_where_it_may_help_and_a_bounded_number_of_times(chat_server: Server) -> None:
    statuses = [503, 200, 503, 503, 503, 200]

    def rule(_: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        return statuses.pop(0), "text", {}

    async with Client.open(Target("t", await chat_server(rule)), FAST, {}) as client:
        assert (await client.complete("small", ASK, {})).text == "text"
        failed = await client.complete("small", ASK, {})
    assert failed.text is None
    assert failed.error is not None
    assert failed.error.startswith("HTTP 503")
    assert statuses == [200]


async def test_a_rejected_request_is_not_tried_again(chat_server: Server) -> None:
    calls: list[int] = []

    def rule(_: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        calls.append(1)
        return 400, "prompt too long", {}

    async with Client.open(Target("t", await chat_server(rule)), FAST, {}) as client:
        answer = await client.complete("small", ASK, {})
    assert answer.error is not None
    assert "prompt too long" in answer.error
    assert len(calls) == 1


async def test_an_answer_that_is_not_utf_8_is_a_failed_request(
    start_server: Callable[[web.Application], Awaitable[str]],
) -> None:
    async def garbled(_: web.Request) -> web.Response:
        return web.Response(body=b"\xff\xfe", content_type="application/json", charset="utf-8")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", garbled)
    async with Client.open(Target("t", await start_server(app)), FAST, {}) as client:
        answer = await client.complete("small", ASK, {})
    assert answer.text is None
    assert answer.error is not None
    assert "not a chat completion" in answer.error


async def test_an_unreachable_target_is_named_with_its_address() -> None:
    port = free_port("127.0.0.1")
    async with Client.open(Target("raw", f"http://127.0.0.1:{port}"), FAST, {}) as client:
        with pytest.raises(TargetError, match=rf"target 'raw' cannot be reached at http://127.0.0.1:{port}"):
            await client.model()
        assert (await client.complete("small", ASK, {})).text is None


async def test_work_in_parallel_is_bounded_complete_and_in_order() -> None:
    running = 0
    most = 0
    ticks: list[None] = []

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        # Later items finish first, so order has to be restored.
        for _ in range(20 - item):
            await asyncio.sleep(0)
        running -= 1
        return item * item

    results = await in_parallel(range(20), work, 4, lambda: ticks.append(None))
    assert results == [item * item for item in range(20)]
    assert most == 4
    assert len(ticks) == 20
