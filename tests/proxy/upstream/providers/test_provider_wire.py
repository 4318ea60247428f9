"""What is read beside litellm: the same facts however the bytes are split, and none where they cannot be read."""

from __future__ import annotations

import json
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.provider_transport import WatchedTransport
from proxy.upstream.provider_wire import ProviderWire, WireChoice

SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json; charset=utf-8"}


def sse(*payloads):
    return b"".join(f"data: {json.dumps(payload)}\n\n".encode() for payload in payloads)


def delta(index, fields, reason=None):
    return {"choices": [{"index": index, "delta": fields, "finish_reason": reason}]}


STREAMS = [
    (
        sse(delta(0, {"refusal": "Ich "}), delta(0, {"refusal": "kann’s nicht."}), delta(0, {}, "stop")),
        {0: WireChoice("Ich kann’s nicht.", "stop")},
    ),
    (
        sse({"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": {"category": "bio"}}}),
        {0: WireChoice("", "refusal", {"category": "bio"})},
    ),
    (
        sse({"candidates": [{"finishReason": "OTHER", "index": 0}]}),
        {0: WireChoice("", "OTHER")},
    ),
]


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 400), max_size=5))
def test_a_stream_split_anywhere_says_the_same(stream, cuts):
    body, expected = stream
    wire = ProviderWire()
    wire.begin(200, SSE)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, end in pairwise(edges):
        wire.feed(body[start:end])
    wire.end()
    assert wire.choices == expected
    assert not wire.cut_off


@given(st.binary(max_size=300), st.sampled_from([SSE, JSON]))
def test_any_bytes_are_read_or_passed_over(body, headers):
    wire = ProviderWire()
    wire.begin(200, headers)
    wire.feed(b"data: " + body + b"\n\n" if headers is SSE else body)
    wire.end()


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/vnd.amazon.eventstream"},
        {**SSE, "content-encoding": "gzip"},
        {},
    ],
)
def test_what_cannot_be_read_is_no_reason_to_call_a_stream_cut_off(headers):
    wire = ProviderWire()
    wire.begin(200, headers)
    wire.feed(b"\x00\x01")
    wire.end()
    assert not wire.legible
    assert not wire.cut_off


def test_another_wire_is_not_called_cut_off():
    wire = ProviderWire()
    wire.begin(200, SSE)
    wire.feed(sse({"type": "response.created", "response": {}}, {"type": "response.completed", "response": {}}))
    wire.end()
    assert not wire.cut_off


def test_an_empty_stream_is_cut_off():
    wire = ProviderWire()
    wire.begin(200, SSE)
    wire.end()
    assert wire.cut_off


def test_bedrock_says_why_it_stopped():
    wire = ProviderWire()
    wire.begin(200, JSON)
    wire.feed(b'{"output": {}, "stopReason": "guardrail_intervened"}')
    wire.end()
    assert wire.choice(0).native_reason == "guardrail_intervened"


class Failing(httpx.AsyncBaseTransport):
    def __init__(self):
        self.requests = 0
        self.closed = False

    async def handle_async_request(self, request):
        self.requests += 1
        raise httpx.ConnectError("refused")

    async def aclose(self):
        self.closed = True


async def test_what_failed_is_not_sent_again_and_what_is_shared_is_not_closed():
    shared, wire = Failing(), ProviderWire()
    for _ in range(2):  # as litellm's client does after a connection error
        async with httpx.AsyncClient(transport=WatchedTransport(shared, wire, connect_timeout_s=1)) as client:
            with pytest.raises(httpx.ConnectError):
                await client.post("http://provider/", content=b"{}")
    assert (shared.requests, shared.closed) == (1, False)
    assert wire.sent
