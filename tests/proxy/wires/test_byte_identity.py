"""What is not recovered is the upstream's, byte for byte: any events, any framing, any cut, any mode, any API."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.exchange import Mode
from proxy.stream import split_events

RELAXED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SURFACES = {"surfaces": ["chat", "completions", "responses"]}
WORDS = st.sampled_from(["I'm", " sorry", ", no", "hello", " ", "", "你好", "<think>", "however", "\u2028"])
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, WORDS),
    st.builds(lambda text: {"reasoning_content": text}, WORDS),
    st.builds(lambda text: {"refusal": text}, WORDS),
    st.just({"role": "assistant", "content": None}),
    st.just({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}),
    st.just({}),
)
CHUNKS = st.builds(
    lambda index, delta, text, finish: {
        "id": "c1",
        "choices": [{"index": index, "delta": delta, "text": text, "finish_reason": finish}],
        "odd": [1, {"a": None}],
    },
    st.integers(0, 2),
    DELTAS,
    WORDS,
    st.sampled_from([None, None, None, "stop", "content_filter"]),
)
EVENTS = st.one_of(
    st.builds(lambda text: {"type": "response.output_text.delta", "delta": text}, WORDS),
    st.builds(lambda text: {"type": "response.reasoning_text.delta", "delta": text}, WORDS),
    st.builds(lambda text: {"type": "response.refusal.delta", "delta": text}, WORDS),
    st.just({"type": "response.created", "response": {"id": "r"}}),
    st.just({"type": "response.completed", "response": {"id": "r", "output": []}}),
)
PAYLOADS = st.one_of(
    CHUNKS, CHUNKS, CHUNKS, EVENTS, st.just({"choices": [], "usage": {"completion_tokens": 1}}), st.just({"error": {}})
)
LINES = st.one_of(
    st.builds(lambda payload: [f"data: {json.dumps(payload)}"], PAYLOADS),
    st.builds(lambda payload: ["event: x", f"data:{json.dumps(payload, ensure_ascii=False)}", "id: 7"], PAYLOADS),
    st.builds(lambda payload: [f"data: {line}" for line in json.dumps(payload, indent=1).split("\n")], PAYLOADS),
    st.sampled_from([[": comment"], ["data: [DONE]"], ["data"], ["data: no json {"], ["retry: 5"], ["unknown"], [""]]),
)


@st.composite
def streams(draw):
    """Pieces of a stream: any events, any line ends, perhaps a BOM, perhaps cut off, split anywhere."""
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    events = draw(st.lists(LINES, max_size=12))
    text = "".join(end.join(lines) + end + end for lines in events)
    whole = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()
    whole = whole[: len(whole) - draw(st.sampled_from([0, 0, 1, 3]))]
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [piece for start, stop in pairwise([0, *cuts, len(whole)]) if (piece := whole[start:stop])]


@pytest.fixture
async def proxies(raw, start_proxy):
    made = [
        await start_proxy(mode, url=raw.url, recovery=SURFACES, stream={"hold_reasoning": hold, "head_ms": 50})
        for mode in Mode
        for hold in (False, True)
    ]
    return [proxy for position, proxy in enumerate(made) if position not in (1, 3)]


@RELAXED
@given(pieces=streams(), choices=st.integers(1, 3), coordinate=st.sampled_from([9.0, -9.0]))
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_a_stream_that_is_not_recovered(raw, proxies, post, sse, path, pieces, choices, coordinate):
    asked = {"model": "m", "stream": True, "n": choices, "store": False}
    asked |= {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"}
    raw.pieces, raw.coordinate = pieces, coordinate
    for proxy in proxies:
        raw.attempts = [b"data: [DONE]\n\n"] * 9  # attempts that answer nothing, so that the original goes out
        _, headers, body = await post(proxy, path, asked)
        assert body == raw.whole
        assert headers["x-rass-action"] != "recovered"


@RELAXED
@given(body=st.one_of(st.binary(max_size=300), PAYLOADS.map(lambda payload: json.dumps(payload, indent=2).encode())))
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_a_whole_answer_that_is_not_recovered(raw, proxies, post, path, body):
    asked = {"model": "m", "store": False, "prompt": "hi", "input": "hi"}
    asked["messages"] = [{"role": "user", "content": "hi"}]
    raw.pieces = [body] if body else []
    for proxy in proxies:
        raw.attempts = [b"{}"] * 9
        _, _, received = await post(proxy, path, asked)
        assert received == body


@given(pieces=streams())
def test_events_put_together_are_the_stream_again(pieces):
    whole = b"".join(pieces)
    assert b"".join(raw for raw, _ in split_events(whole)) == whole
