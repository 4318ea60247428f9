"""Requests that are too deep, too long, too many or too slow are turned away before anything is judged."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import http_protocol
from proxy.errors import InvalidBody, TooDeep
from proxy.request_limits import check_body, deeper_than
from proxy.settings.operation import LimitSettings

BRACKETS = st.text(alphabet='[]{}"\\ab', max_size=12)
JSON = st.recursive(
    st.none() | BRACKETS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(BRACKETS, inner, max_size=3),
    max_leaves=20,
)


def depth_of(value):
    if isinstance(value, dict):
        return 1 + max((depth_of(each) for each in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(each) for each in value), default=0)
    return 0


@given(JSON, st.integers(0, 6), st.booleans())
def test_the_depth_is_that_of_the_parsed_value(value, limit, ascii_only):
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert deeper_than(body, limit) is (depth_of(value) > limit)


@given(st.text(alphabet='[]{}"\\:,1 ', max_size=40))
def test_whatever_the_parser_reads_is_no_deeper_than_was_counted(text):
    try:
        value = json.loads(text)
    except ValueError:
        return
    assert not deeper_than(text.encode(), depth_of(value))


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'["' + b"[" * 100 + b'",' + b"[" * 70])
def test_deep_json_is_refused(body):
    with pytest.raises(TooDeep, match="64 levels"):
        check_body(body, LimitSettings())


def test_brackets_in_text_are_not_nesting():
    check_body(json.dumps({"messages": [{"content": "[[[{{{" * 10_000}]}).encode(), LimitSettings())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_only_utf8_is_read(encoding):
    with pytest.raises(InvalidBody, match="UTF-8"):
        check_body('{"a": "∢"}'.encode(encoding), LimitSettings())
    check_body('{"a": "∢"}'.encode("utf-8-sig"), LimitSettings())


async def post(proxy, body, headers=None):
    url = f"{proxy.url}/v1/chat/completions"
    async with proxy.session.post(url, data=body, headers=headers) as response:
        return response.status, json.loads(await response.read())["error"]


async def test_each_limit_answers_in_openais_shape(model, start_proxy):
    proxy = await start_proxy(limits={"max_json_depth": 4, "max_messages": 2, "max_headers": 12})
    turn = {"role": "user", "content": "hello"}
    deep = {"model": "scripted", "messages": [turn], "x": [[[[1]]]]}
    many = {"model": "scripted", "messages": [turn, turn, turn]}
    assert await refused(proxy, json.dumps(deep)) == (400, "json_too_deep")
    assert await refused(proxy, json.dumps(many)) == (400, "too_many_messages")
    headers = {f"x-{number}": "y" for number in range(20)}
    assert await refused(proxy, b"{}", headers) == (431, "headers_too_large")
    assert model.requests == []


@pytest.mark.parametrize(
    ("path", "field", "entry"),
    [
        ("/v1/responses", "input", {"role": "user", "content": "hello"}),
        ("/v1/completions", "prompt", "hello"),
        ("/v1/completions", "prompt", [1, 2, 3]),
    ],
)
async def test_turns_are_counted_whatever_their_api_calls_them(model, start_proxy, path, field, entry):
    proxy = await start_proxy(limits={"max_messages": 2})

    async def code_for(listed):
        async with proxy.session.post(f"{proxy.url}{path}", json={"model": "scripted", field: listed}) as response:
            error = (await response.json()).get("error", {}) if response.status == 400 else {}
        return error.get("code"), error.get("param")

    assert await code_for([entry] * 3) == ("too_many_messages", field)
    assert await code_for([entry] * 2) == (None, None)
    assert await code_for([1, 2, 3]) == (None, None)  # token ids: one prompt


async def refused(proxy, body, headers=None):
    status, error = await post(proxy, body, headers)
    assert error["type"] == "invalid_request_error"
    return status, error["code"]


async def test_long_headers_are_refused_on_every_path(start_proxy):
    proxy = await start_proxy(limits={"max_header_bytes": 500})
    async with proxy.session.get(f"{proxy.url}/healthz", headers={"x-long": "y" * 600}) as response:
        assert response.status == 431
        assert (await response.json())["error"]["code"] == "headers_too_large"


async def test_a_body_that_does_not_come_is_not_waited_for(model, start_proxy):
    proxy = await start_proxy(limits={"body_timeout_s": 0.05})

    async def never_ending():
        yield b'{"model": '
        await asyncio.Event().wait()

    assert await refused(proxy, never_ending()) == (408, "request_timeout")


async def connected(proxy):
    host, port = proxy.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def test_an_endless_head_is_cut_off(start_proxy):
    reader, writer = await connected(await start_proxy())

    async def write_on():
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
        while True:
            writer.write(b"x-header: " + b"y" * 10_000 + b"\r\n")
            await writer.drain()

    writing = asyncio.create_task(write_on())
    async with asyncio.timeout(30):
        with suppress(ConnectionError):  # the answer may be lost with the connection
            assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        await asyncio.wait({writing})
    assert isinstance(writing.exception(), ConnectionError)
    writer.close()


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nhost:"])
async def test_a_head_that_does_not_come_is_not_waited_for(start_proxy, monkeypatch, start):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.05)
    reader, writer = await connected(await start_proxy())
    writer.write(start)
    async with asyncio.timeout(30):
        with suppress(ConnectionError):  # it may be closed before it was read from
            assert await reader.read() == b""
    writer.close()


async def test_a_kept_connection_serves_one_request_after_another(start_proxy, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.3)
    reader, writer = await connected(await start_proxy())
    request, answered = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", b'{"status":"ok"}'

    async def ask(*parts, answers):
        seen = b""
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(30):
            while seen.count(answered) < answers:
                seen += await reader.read(4096)
                assert seen, "the connection was closed"

    await ask(request, answers=1)
    with pytest.raises(TimeoutError):  # the limit for a head is over, and nothing was to be waited for
        async with asyncio.timeout(0.5):
            await reader.read(1)
    await ask(request[:10], request[10:], request + request, answers=3)
    writer.close()
