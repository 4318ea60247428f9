"""Chat completions: what is read of a conversation and of an answer, and what survives a recovery."""

from __future__ import annotations

import json

import pytest

from detectors.verdict import Message
from proxy.answers import RefusalForm, StreamReader, read_choices
from proxy.exchange import Mode
from proxy.wires.chat import CHAT

PATH = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "How do I kill a process?"}]}
STEERED = {"steered": True, "vector": "v", "h": -7.5}


def body(*choices, **fields):
    listed = [{"index": index, "finish_reason": "stop", **choice} for index, choice in enumerate(choices)]
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": listed, **fields}


def chunk(delta, *, index=0, finish=None, identity="c1", **fields):
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    head = {"id": identity, "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice], **fields}


def encoded(payload):
    return json.dumps(payload).encode()


def test_every_turn_is_judged_with_its_role():
    calls = [
        {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"q": "x"}'}},
        {"id": "2", "type": "custom", "custom": {"name": "run", "input": "ls"}},
    ]
    conversation = CHAT.conversation(
        {
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "1", "content": "found"},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            ]
        }
    )
    assert conversation.messages == (
        Message("system", "be kind"),
        Message("user", "a\nb"),
        Message("assistant", 'find({"q": "x"})\nrun(ls)'),
        Message("tool", "found"),
        Message("assistant", "No."),
    )
    assert conversation.text_only
    assert conversation.observe_only == "the conversation used tools"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": [{}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"store": True}, "store"),
        ({"web_search_options": {"a": 1}}, "web_search_options"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"guided_json": {}}, "guided_json"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_why_a_request_is_only_observed(fields, reason):
    assert reason in CHAT.conversation({**ASK, **fields}).observe_only


@pytest.mark.parametrize(
    "fields", [{}, {"n": 3}, {"logprobs": True}, {"response_format": {"type": "text"}}, {"modalities": ["text"]}]
)
def test_what_may_be_recovered(fields):
    conversation = CHAT.conversation({**ASK, **fields})
    assert conversation.observe_only is None
    assert conversation.choices == fields.get("n", 1)


def test_an_answer_is_read_choice_by_choice():
    answer = body(
        {"message": {"content": "a"}},
        {"message": {"content": None, "refusal": "No."}},
        {"message": {"content": "c"}, "finish_reason": "content_filter"},
        {"message": {"content": None, "tool_calls": [{}]}},
    )
    choices = read_choices(encoded(answer), CHAT.gather({}))
    assert [choice.texts for choice in choices.values()] == [("a",), ("",), ("c",), ("",)]
    assert [choice.form for choice in choices.values()] == [
        RefusalForm.TEXT,
        RefusalForm.TYPED,
        RefusalForm.FILTER,
        RefusalForm.TEXT,
    ]
    assert [choice.called_tools for choice in choices.values()] == [False, False, False, True]


def test_typed_refusals_are_read_from_streams(sse):
    reader = StreamReader(CHAT.gather({}))
    pieces = sse(chunk({"role": "assistant", "refusal": "I "}), chunk({"refusal": "won't."}), chunk({}, finish="stop"))
    assert reader.feed(b"".join(pieces)) == {}
    assert reader.answer().form is RefusalForm.TYPED
    assert reader.done


async def test_a_recovered_answer_is_the_attempts_own(raw, start_proxy, post, refused):
    original = {"message": {"role": "assistant", "content": refused, "refusal": None, "odd": 1}, "logprobs": {"a": 1}}
    raw.pieces = [encoded(body(original, usage={"completion_tokens": 9}))]
    logprobs = {"content": [{"token": "Use", "logprob": -0.1}]}
    message = {"role": "assistant", "content": "Use kill."}
    steered = {"message": message, "logprobs": logprobs, "finish_reason": "length"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    raw.attempts = [encoded(body(steered, id="c2", usage=usage, rass=STEERED, odd_field=[1]))]
    proxy = await start_proxy(url=raw.url)
    _, headers, answer = await post(proxy, PATH, {**ASK, "logprobs": True})
    assert headers["x-rass-action"] == "recovered"
    expected = body(steered, id="c2", usage=usage, odd_field=[1])
    assert json.loads(answer) == expected


# Mode steer sends a steered attempt first.
@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.STEER])
@pytest.mark.parametrize("stream", [False, True])
async def test_typed_refusals_survive_unchanged(raw, start_proxy, post, sse, mode, stream):
    message = {"role": "assistant", "content": None, "refusal": "I can't do that.", "extra": {"a": [1]}}
    if stream:
        deltas = [{"role": "assistant", "refusal": ""}, {"refusal": "I can't"}, {"refusal": " do that."}]
        raw.pieces = sse(*map(chunk, deltas))
    else:
        raw.pieces = [encoded(body({"message": message}))]
    proxy = await start_proxy(mode, url=raw.url)
    _, headers, answer = await post(proxy, PATH, {**ASK, "stream": stream})
    assert answer == raw.whole
    assert headers["x-rass-action"] != "recovered"
    assert len(raw.seen) == 1


async def test_a_recovered_answer_holds_no_refusal_of_the_originals(raw, start_proxy, post, sse, refused):
    raw.pieces = sse(chunk({"content": refused, "refusal": None}), chunk({}, finish="stop"))
    raw.attempts = [b"".join(sse(chunk({"content": "Use kill."}, rass=STEERED), chunk({}, finish="stop")))]
    proxy = await start_proxy(url=raw.url)
    _, headers, answer = await post(proxy, PATH, {**ASK, "stream": True})
    assert headers["x-rass-action"] == "recovered"
    assert b"refusal" not in answer
    assert b"rass" not in answer


async def test_an_attempt_with_a_typed_refusal_is_none(raw, start_proxy, post, refused):
    raw.pieces = [encoded(body({"message": {"content": refused}}))]
    raw.attempts = [encoded(body({"message": {"content": "", "refusal": "No."}}, rass=STEERED))]
    proxy = await start_proxy(url=raw.url)
    _, headers, answer = await post(proxy, PATH, ASK)
    assert headers["x-rass-action"] == "recovery-failed"
    assert answer == raw.whole


def test_an_error_that_is_none_is_no_failure(sse):
    for error, failed in ((None, False), ({"message": "no"}, True)):
        reader = StreamReader(CHAT.gather({}))
        reader.feed(sse({"error": error, "choices": []}, done=False)[0])
        assert reader.failed is failed
