"""What is held of a stream and what is not: reasoning, silence, tool calls, failures after the head."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.answers import StreamReader
from proxy.exchange import Mode
from proxy.stream import KEEP_ALIVE, SseParser
from proxy.wires.chat import CHAT

PATH = "/v1/chat/completions"
ASK = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "How do I kill a process?"}]}
ROLE = {"role": "assistant", "content": ""}


def chunk(delta, *, finish=None, identity="c1", **fields):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": identity, "created": 1, "model": "m", "choices": [choice], **fields}


@pytest.fixture
def attempt(sse):
    """A steered stream, with reasoning and an identity of its own."""
    report = {"steered": True, "h": -7.5}
    head = chunk({**ROLE, "reasoning_content": "It is about software."}, identity="c2", rass=report)
    rest = [chunk({"content": "Use "}, identity="c2"), chunk({"content": "kill."}, identity="c2")]
    return b"".join(sse(head, *rest, chunk({}, finish="stop", identity="c2")))


@pytest.fixture
def reasoned(sse, refused):
    """A refusal after reasoning, in four events and the end."""
    thoughts = [chunk({**ROLE, "reasoning_content": "Kill?"}), chunk({"reasoning": " That is bad."})]
    return sse(*thoughts, chunk({"content": refused}), chunk({}, finish="stop"))


class Client:
    """A streaming request that is read piece by piece."""

    def __init__(self, response):
        self.headers = response.headers
        self._response = response
        self.received = b""

    async def until(self, expected):
        async with asyncio.timeout(30):
            while expected not in self.received:
                piece = await self._response.content.readany()
                assert piece, f"the stream ended without {expected!r}"
                self.received += piece

    async def rest(self):
        self.received += await self._response.read()
        return self.received


def text_of(body):
    reader = StreamReader(CHAT.gather({}))
    reader.feed(body)
    assert reader.done
    return reader.answer().texts[0]


def identities(body):
    return {json.loads(event.data)["id"] for event in SseParser().feed(body) if event.data != "[DONE]"}


async def test_reasoning_leaves_at_once_and_the_refusal_after_it_is_recovered(raw, start_proxy, reasoned, attempt):
    raw.pieces, raw.attempts, raw.pause_before = reasoned, [attempt], 2
    proxy = await start_proxy(url=raw.url)
    async with proxy.session.post(f"{proxy.url}{PATH}", json=ASK) as response:
        client = Client(response)
        await client.until(b"That is bad.")
        assert client.headers["x-rass-action"] == "observing"
        raw.go_on.set()
        body = await client.rest()
    assert body.startswith(reasoned[0] + reasoned[1])
    assert text_of(body) == "Use kill."
    assert identities(body) == {"c1"}
    assert b"It is about software." in body
    assert b": x-rass-action: recovered\n\n" in body
    assert b'"rass"' not in body


async def test_reasoning_is_held_where_the_settings_say_so(raw, start_proxy, post, reasoned, attempt):
    raw.pieces, raw.attempts = reasoned, [attempt]
    proxy = await start_proxy(url=raw.url, stream={"hold_reasoning": True})
    _, headers, body = await post(proxy, PATH, ASK)
    assert headers["x-rass-action"] == "recovered"
    assert b"That is bad." not in body
    assert identities(body) == {"c2"}


@pytest.mark.parametrize("hold", [False, True])
async def test_reasoning_before_an_answer_passes_in_order(raw, start_proxy, post, sse, hold):
    thoughts = [chunk({**ROLE, "reasoning_content": f"step {step}"}) for step in range(5)]
    raw.pieces = sse(*thoughts, chunk({"content": "Use kill."}), chunk({}, finish="stop"))
    proxy = await start_proxy(url=raw.url, stream={"hold_reasoning": hold})
    _, headers, body = await post(proxy, PATH, ASK)
    assert body == raw.whole
    # Where all arrives in one piece, the head is decided before anything could leave.
    assert headers["x-rass-action"] in (["delivered"] if hold else ["delivered", "observing"])


async def test_a_stream_that_says_nothing_is_let_go_in_time_and_still_recovered(
    raw, start_proxy, sse, refused, attempt
):
    raw.pieces = sse(chunk(ROLE), chunk({"content": refused}), chunk({}, finish="stop"))
    raw.attempts, raw.pause_before = [attempt], 1
    proxy = await start_proxy(url=raw.url, stream={"headers_within_s": 0.05})
    async with proxy.session.post(f"{proxy.url}{PATH}", json=ASK) as response:
        client = Client(response)
        await client.until(b'"assistant"')
        raw.go_on.set()
        body = await client.rest()
    assert body.startswith(raw.pieces[0])
    assert text_of(body) == "Use kill."
    assert identities(body) == {"c1"}


async def test_comments_before_the_content_leave_at_once(raw, start_proxy, sse):
    raw.pieces = [b": PROCESSING\n\n"] * 2 + sse(chunk({"content": "Use kill."}), chunk({}, finish="stop"))
    raw.pause_before = 2
    proxy = await start_proxy(url=raw.url, stream={"headers_within_s": 0.05})
    async with proxy.session.post(f"{proxy.url}{PATH}", json=ASK) as response:
        client = Client(response)
        await client.until(b": PROCESSING\n\n" * 2)
        raw.go_on.set()
        assert await client.rest() == raw.whole


async def test_the_connection_is_kept_alive_while_no_content_comes(raw, start_proxy, sse):
    raw.pieces = sse(chunk(ROLE), chunk({"content": "Use kill."}), chunk({}, finish="stop"))
    raw.pause_before = 1
    proxy = await start_proxy(url=raw.url, stream={"headers_within_s": 0.05, "keepalive_s": 0.05})
    async with proxy.session.post(f"{proxy.url}{PATH}", json=ASK) as response:
        client = Client(response)
        await client.until(KEEP_ALIVE * 2)
        raw.go_on.set()
        body = await client.rest()
    assert body.replace(KEEP_ALIVE, b"") == raw.whole


async def test_comments_of_ours_do_not_put_off_the_upstream_s_time_limit(raw, start_proxy, sse):
    raw.pieces = sse(chunk(ROLE), chunk({"content": "Use kill."}), chunk({}, finish="stop"))
    raw.pause_before = 1
    stream = {"headers_within_s": 0.05, "keepalive_s": 0.1}
    proxy = await start_proxy(url=raw.url, stream=stream, upstream={"idle_timeout_s": 0.5})
    async with proxy.session.post(f"{proxy.url}{PATH}", json=ASK) as response:
        body = await Client(response).rest()
    assert KEEP_ALIVE in body
    assert b"upstream.idle_timeout_s" in body
    raw.go_on.set()


async def test_a_stream_that_stalls_inside_its_head_is_relayed(raw, start_proxy, sse):
    raw.pieces = sse(chunk({"content": "I'm"}), chunk({"content": " glad."}), chunk({}, finish="stop"))
    raw.pause_before = 1
    proxy = await start_proxy(url=raw.url, stream={"head_ms": 50})
    async with proxy.session.post(f"{proxy.url}{PATH}", json=ASK) as response:
        client = Client(response)
        await client.until(raw.pieces[0])
        raw.go_on.set()
        assert await client.rest() == raw.whole


async def test_a_stream_that_never_goes_on_ends_with_an_error_event(raw, start_proxy, sse):
    raw.pieces = sse(chunk({"content": "I'm"}), chunk({"content": " glad."}))
    raw.pause_before = 1
    proxy = await start_proxy(upstream={"url": raw.url, "idle_timeout_s": 0.2}, stream={"head_ms": 50})
    async with proxy.session.post(f"{proxy.url}{PATH}", json=ASK) as response:
        body = await response.read()
    assert body.startswith(raw.pieces[0])
    assert json.loads(SseParser().feed(body)[-1].data)["error"]["code"] == "upstream_timeout"


@pytest.mark.parametrize("content", [None, "Use kill."])
async def test_a_stream_that_breaks_after_reasoning_left_ends_with_an_error_event(
    raw, start_proxy, post, sse, eventually, content
):
    raw.pieces = sse(chunk({"reasoning_content": "Hm."}), chunk({"content": content}), done=False)
    raw.breaks = True
    proxy = await start_proxy(url=raw.url)
    status, _, body = await post(proxy, PATH, ASK)
    assert status == 200
    assert body.startswith(raw.whole)
    assert json.loads(SseParser().feed(body)[-1].data)["error"]["code"] == "upstream_broke"
    await eventually(lambda: proxy.total("rass_requests_total", outcome="failed", mode="recover") == 1)


@pytest.mark.parametrize(("coordinate", "recovered"), [(0.0, False), (-9.0, True)])
async def test_a_refused_stream_that_a_filter_ends_is_kept_near_the_boundary(
    raw, start_proxy, sse, refused, attempt, eventually, coordinate, recovered
):
    raw.pieces = sse(chunk({"content": refused}), chunk({}, finish="content_filter"))
    raw.attempts, raw.pause_before, raw.coordinate = [attempt], 1, coordinate
    proxy = await start_proxy(url=raw.url, recovery={"filters": True}, stream={"headers_within_s": 0.05})
    async with proxy.session.post(f"{proxy.url}{PATH}", json=ASK) as response:
        await eventually(lambda: proxy.total("rass_recoveries_total", result="answered") == 1)
        raw.go_on.set()
        body = await response.read()
    assert (text_of(body) == "Use kill.") is recovered
    assert (body.replace(KEEP_ALIVE, b"") == raw.whole) is not recovered
    outcome = "recovered" if recovered else "recovery-failed"
    await eventually(lambda: proxy.total("rass_requests_total", outcome=outcome) == 1)


async def test_tool_calls_stream_in_order_and_are_not_held(raw, start_proxy, sse):
    calls = [
        {"tool_calls": [{"index": index, "function": {"arguments": part}}]} for index in (0, 1) for part in ("{", "}")
    ]
    raw.pieces = sse(chunk(ROLE), *map(chunk, calls), chunk({}, finish="tool_calls"))
    raw.pause_before = 2
    proxy = await start_proxy(url=raw.url, stream={"headers_within_s": 30})
    async with proxy.session.post(f"{proxy.url}{PATH}", json=ASK) as response:
        client = Client(response)
        await client.until(raw.pieces[1])
        raw.go_on.set()
        assert await client.rest() == raw.whole


async def test_a_client_that_leaves_while_reasoning_streams(raw, start_proxy, reasoned, eventually):
    raw.pieces, raw.pause_before = reasoned, 1
    proxy = await start_proxy(url=raw.url)
    response = await proxy.session.post(f"{proxy.url}{PATH}", json=ASK)
    await response.content.readany()
    response.close()
    async with asyncio.timeout(30):
        await raw.left.wait()
    await eventually(lambda: proxy.total("rass_requests_total", outcome="client-gone", mode="recover") == 1)


async def test_usage_at_a_streams_end_is_that_of_the_answer_which_went_out(raw, start_proxy, post, sse, refused):
    def usage(count):
        return {"id": "c1", "choices": [], "usage": {"completion_tokens": count}}

    steered = chunk({"content": "Use kill."}, rass={"steered": True})
    raw.pieces = sse(chunk({"content": refused}), usage(9))
    raw.attempts = [b"".join(sse(steered, usage(3)))]
    asked = {**ASK, "stream_options": {"include_usage": True}}
    proxy = await start_proxy(url=raw.url)
    _, _, body = await post(proxy, PATH, asked)
    counts = [json.loads(event.data).get("usage") for event in SseParser().feed(body)[:-1]]
    assert counts == [None, {"completion_tokens": 3}]
    assert raw.seen[1][1]["stream_options"] == {"include_usage": True}
    observing = await start_proxy(Mode.OBSERVE, url=raw.url)
    _, _, body = await post(observing, PATH, asked)
    assert body == raw.whole
