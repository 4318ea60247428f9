"""Streams of providers behind litellm: what it drops is put back, breaks and silence are told, no byte is lost.

Each scripted stream is in the provider's own wire, and the installed litellm translates it.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.answers import RefusalForm, StreamReader
from proxy.errors import UpstreamBroke, UpstreamTimedOut
from proxy.wires.chat import CHAT

# litellm and the SDKs that it uses leave pools, tasks and deprecated calls behind, none of them ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

STOP_DETAILS = {"type": "refusal", "category": "cyber", "explanation": "because"}


def anthropic_events(*texts, reason="end_turn", **more):
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "content": [], "stop_reason": None}
    start |= {"stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 5}}
    return [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": t}} for t in texts),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason, **more}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]


def openai_events(*deltas, reason="stop"):
    head = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    if reason is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": reason})
    return [{**head, "choices": [choice]} for choice in choices]


def text_of(chunks, name="content"):
    return "".join(c["delta"].get(name) or "" for chunk in chunks for c in chunk["choices"])


def reasons_of(chunks):
    return [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"] is not None]


async def drain(response, read):
    while chunk := await response.next_chunk():
        read.append(chunk)


def form_of(chunks):
    reader = StreamReader(CHAT.gather({}))
    for chunk in chunks:
        reader.feed(f"data: {json.dumps(chunk)}\n\n".encode())
    return reader.answer().form


async def test_a_stream_is_translated(provider, ask):
    provider.events = anthropic_events("Use ", "kill.")
    chunks = await ask("anthropic").chunks(stream_options={"include_usage": True})
    assert text_of(chunks) == "Use kill."
    assert reasons_of(chunks) == ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("first", [{"role": "assistant", "content": ""}, {"role": "assistant", "refusal": "I "}])
async def test_dropped_refusal_deltas_are_recovered(provider, ask, first):
    provider.events, provider.done = openai_events(first, {"refusal": "can"}, {"refusal": "not."}), True
    chunks = await ask("azure").chunks()
    assert text_of(chunks, "refusal") == (first.get("refusal") or "") + "cannot."
    assert text_of(chunks) == ""
    assert form_of(chunks) is RefusalForm.TYPED


async def test_why_anthropic_stopped_is_kept_in_streams(provider, ask):
    provider.events = anthropic_events("I ", reason="refusal", stop_details=STOP_DETAILS)
    chunks = await ask("anthropic").chunks()
    last = chunks[-1]["choices"][0]
    assert (last["finish_reason"], last["native_finish_reason"]) == ("content_filter", "refusal")
    assert last["stop_details"] == STOP_DETAILS
    assert form_of(chunks) is RefusalForm.FILTER


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("anthropic", anthropic_events("Hel", "lo")[:4]),
        ("azure", openai_events({"role": "assistant", "content": "Hel"}, {"content": "lo"}, reason=None)),
    ],
)
async def test_a_stream_that_was_cut_off_does_not_end_in_stop(provider, ask, name, events, cut):
    provider.events, provider.cut = events, cut
    asked = ask(name)
    response = await asked.send(stream=True)
    read: list[bytes] = []
    with pytest.raises(UpstreamBroke, match=name):
        await drain(response, read)
    await response.close()
    assert b"lo" in b"".join(read)
    assert b'"finish_reason": "stop"' not in b"".join(read)
    assert asked.metrics.registry.get_sample_value("rass_upstream_errors_total", {"code": "upstream_broke"}) == 1


async def test_a_silent_stream(provider, ask):
    provider.hold, provider.events = asyncio.Event(), anthropic_events("Hel", "lo")
    response = await ask("anthropic", idle_timeout_s=0.2).send(stream=True)
    with pytest.raises(UpstreamTimedOut, match=r"sent nothing for .*upstream\.idle_timeout_s"):
        await drain(response, [])
    await response.close()
    async with asyncio.timeout(30):
        await provider.cancelled.wait()


async def test_a_wait_that_is_given_up_loses_no_bytes(provider, ask):
    provider.hold, provider.events = asyncio.Event(), anthropic_events("Hel", "lo")
    response = await ask("anthropic").send(stream=True)
    chunks, given_up = [], 0
    while not chunks or chunks[-1]:
        try:
            async with asyncio.timeout(0.05):
                chunks.append(await response.next_chunk())
        except TimeoutError:
            given_up += 1
            provider.hold.set()
    await response.close()
    assert given_up > 0
    reader = StreamReader(CHAT.gather({}))
    reader.feed(b"".join(chunks))
    assert reader.answer().texts == ("Hello",)
    assert reader.done


async def test_closing_a_stream_cancels_the_providers_work(provider, ask):
    provider.hold, provider.events = asyncio.Event(), anthropic_events("Hel", "lo")
    response = await ask("anthropic").send(stream=True)
    await response.next_chunk()
    await response.close()
    async with asyncio.timeout(30):
        await provider.cancelled.wait()
