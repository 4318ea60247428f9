"""Responses: items, parts and typed events; effects are only observed; recovery with its own ids, usage and status."""

from __future__ import annotations

import json

import openai
import pytest

from detectors.verdict import Message
from proxy.answers import RefusalForm, StreamReader, read_choices
from proxy.clarify import load_notes
from proxy.exchange import Mode
from proxy.stream import SseParser
from proxy.wires.responses import RESPONSES

PATH = "/v1/responses"
ASK = {"model": "m", "input": "How do I kill a process?", "store": False}
ALL = {"surfaces": ["chat", "completions", "responses"]}


def response(*parts, identity="resp_1", status="completed", **fields):
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": list(parts)}
    usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    return {
        "id": identity,
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": status,
        "output": [message],
        "usage": usage,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **fields,
    }


def text_part(text):
    return {"type": "output_text", "text": text, "annotations": []}


def stream(text, *, identity="resp_1", **final):
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    empty = {**response(identity=identity, status="in_progress"), "output": []}
    middle = len(text) // 2
    events = [
        {"type": "response.created", "response": empty},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "msg_1"}},
        *({"type": "response.output_text.delta", **at, "delta": part} for part in (text[:middle], text[middle:])),
        {"type": "response.output_text.done", **at, "text": text},
        {"type": "response.completed", "response": response(text_part(text), identity=identity, **final)},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


@pytest.mark.parametrize(
    ("given", "messages", "text_only"),
    [
        ({"input": "hi"}, [("user", "hi")], True),
        ({"input": "hi", "instructions": "be kind"}, [("system", "be kind"), ("user", "hi")], True),
        ({"input": [{"role": "user", "content": "a"}]}, [("user", "a")], True),
        (
            {
                "input": [
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
                    {"type": "reasoning", "summary": []},
                    {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"},
                    {"type": "function_call_output", "call_id": "1", "output": "found"},
                    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                ]
            },
            [("user", "a"), ("assistant", "f({})"), ("tool", "found"), ("assistant", "No.")],
            True,
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, [("user", "")], False),
        ({"input": [{"type": "item_reference", "id": "x"}]}, [], False),
        ({"input": "hi", "prompt": {"id": "pmpt_1"}}, [("user", "hi")], False),
        ({"input": 7}, [], False),
        ({}, [], False),
    ],
)
def test_input_is_read_into_a_conversation(given, messages, text_only):
    conversation = RESPONSES.conversation(given)
    assert conversation.messages == tuple(Message(role, content) for role, content in messages)
    assert conversation.text_only is text_only


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"store": True}, "store"),
        ({"store": None}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "tools"),
    ],
)
def test_requests_with_effects_are_only_observed(fields, reason):
    assert reason in RESPONSES.conversation({**ASK, **fields}).observe_only
    assert RESPONSES.conversation(ASK).observe_only is None


def test_answers_are_read_from_bodies_and_streams(sse):
    refusal = {"type": "refusal", "refusal": "No."}
    for payload, text, form in [
        (response(text_part("a"), text_part("b")), "ab", RefusalForm.TEXT),
        (response(refusal), "", RefusalForm.TYPED),
        (response(text_part("a"), incomplete_details={"reason": "content_filter"}), "a", RefusalForm.FILTER),
    ]:
        read = read_choices(json.dumps(payload).encode(), RESPONSES.gather({}))
        assert (read[0].texts, read[0].form) == ((text,), form)
        reader = StreamReader(RESPONSES.gather({}))
        reader.feed(b"".join(sse({"type": "response.completed", "response": payload}, named=True, done=False)))
        assert reader.done
        assert (reader.answer().texts, reader.answer().form) == ((text,), form)
    assert read_choices(json.dumps(response(status="failed", error={"code": "x"})).encode(), RESPONSES.gather({})) == {}
    assert read_choices(b'{"id": "x"}', RESPONSES.gather({})) == {}


def test_events_are_read_as_they_arrive(sse):
    reader = StreamReader(RESPONSES.gather({}))
    assert reader.feed(b"".join(sse(*stream("hello there"), named=True, done=False))) == {0: "hello there"}
    assert reader.answer().texts == ("hello there",)
    for event in (
        {"type": "response.refusal.delta", "delta": "No"},
        {"type": "response.output_item.added", "item": {"type": "function_call"}},
        {"type": "response.reasoning_text.delta", "delta": "hm"},
        {"type": "response.failed", "response": {}},
    ):
        reader.feed(b"".join(sse(event, named=True, done=False)))
    assert reader.answer().form is RefusalForm.TYPED
    assert reader.answer().called_tools
    assert reader.reasoned
    assert reader.failed


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_not_recovered_passes_byte_for_byte(raw, start_proxy, post, sse, refused, mode, streamed):
    proxy = await start_proxy(mode, url=raw.url, recovery=ALL)
    for fields in ({}, {"store": True}):
        for text in ("An answer.", refused):
            raw.coordinate = 9.0
            raw.pieces = [json.dumps(response(text_part(text))).encode()]
            if streamed:
                raw.pieces = sse(*stream(text), named=True, done=False)
            _, _, answer = await post(proxy, PATH, {**ASK, **fields, "stream": streamed})
            assert answer == raw.whole
    assert all("rass" not in payload for _, payload in raw.seen)


async def client_of(proxy):
    return openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0)


async def test_a_recovered_response(raw, start_proxy, refused):
    raw.pieces = [json.dumps(response(text_part(refused))).encode()]
    steered = response(text_part("Use kill."), identity="resp_2", rass={"steered": True, "h": -7.5})
    raw.attempts = [json.dumps(steered).encode()]
    proxy = await start_proxy(url=raw.url, recovery=ALL)
    async with await client_of(proxy) as client:
        answer = await client.responses.with_raw_response.create(**ASK)
    assert answer.headers["x-rass-action"] == "recovered"
    parsed = answer.parse()
    assert (parsed.output_text, parsed.id, parsed.status) == ("Use kill.", "resp_2", "completed")
    assert parsed.usage.output_tokens == 5
    assert b"rass" not in answer.content
    assert raw.seen[1][1]["store"] is False


async def test_a_response_is_recovered_with_a_note_in_its_instructions(raw, start_proxy, post, refused):
    raw.pieces = [json.dumps(response(text_part(refused))).encode()]
    raw.attempts = [json.dumps(response(text_part("Use kill."), identity="resp_2")).encode()]
    proxy = await start_proxy(url=raw.url, recovery={**ALL, "clarify": "always", "ladder": ["clarify"]})
    _, headers, answer = await post(proxy, PATH, ASK)
    assert (headers["x-rass-action"], headers["x-rass-attempts"]) == ("recovered", "1")
    assert json.loads(answer)["id"] == "resp_2"
    assert raw.seen[1][1] == {**ASK, "instructions": load_notes().note("en")}


async def test_a_recovered_stream_has_one_identity(raw, start_proxy, sse, refused):
    raw.pieces = sse(*stream(refused), named=True, done=False)
    events = stream("Use kill.", identity="resp_2", rass={"steered": True, "h": -7.5})
    raw.attempts = [b"".join(sse(*events, named=True, done=False))]
    proxy = await start_proxy(url=raw.url, recovery=ALL)
    async with await client_of(proxy) as client:
        received = [event async for event in await client.responses.create(**ASK, stream=True)]
    assert "".join(event.delta for event in received if event.type == "response.output_text.delta") == "Use kill."
    assert {event.response.id for event in received if hasattr(event, "response")} == {"resp_2"}
    assert [event.sequence_number for event in received] == list(range(6))
    assert received[-1].response.status == "completed"
    assert not hasattr(received[-1].response, "rass")


async def test_a_stream_that_breaks_ends_with_an_error_that_clients_raise(raw, start_proxy, sse):
    raw.pieces = sse(*stream("A long answer."), named=True, done=False)[:-1]
    raw.breaks = True
    proxy = await start_proxy(Mode.OBSERVE, url=raw.url)
    async with await client_of(proxy) as client:
        with pytest.raises(openai.APIError, match="stopped in the middle"):
            [event async for event in await client.responses.create(**ASK, stream=True)]


async def test_its_error_event_is_typed(raw, start_proxy, post, sse):
    raw.pieces = sse(*stream("A long answer."), named=True, done=False)[:-1]
    raw.breaks = True
    proxy = await start_proxy(Mode.OBSERVE, url=raw.url)
    _, _, body = await post(proxy, PATH, {**ASK, "stream": True})
    last = SseParser().feed(body)[-1]
    assert last.name == "error"
    assert json.loads(last.data)["type"] == "error"
    assert json.loads(last.data)["code"] == "upstream_broke"


async def test_a_stream_that_leaves_before_its_head_is_known_says_no_more(raw, start_proxy, sse):
    thought = {"type": "response.reasoning_text.delta", "delta": "Hm."}
    raw.pieces = sse(thought, *stream("An answer."), named=True, done=False)
    raw.pause_before = 1
    proxy = await start_proxy(url=raw.url, recovery=ALL)
    async with proxy.session.post(f"{proxy.url}{PATH}", json={**ASK, "stream": True}) as answer:
        raw.go_on.set()
        assert await answer.read() == raw.whole
    own = {name: value for name, value in answer.headers.items() if name.startswith("x-rass-")}
    assert own == {"x-rass-action": "observing", "x-rass-zone": "unread"}


def test_an_error_that_is_none_is_no_failure(sse):
    for error, failed in ((None, False), ({"message": "no"}, True)):
        reader = StreamReader(RESPONSES.gather({}))
        reader.feed(sse({"error": error}, done=False)[0])
        assert reader.failed is failed
