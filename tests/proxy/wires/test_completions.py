"""Completions: a prompt is a user turn; recovery where the engine steers this path."""

from __future__ import annotations

import json

import pytest

from detectors.verdict import Message
from proxy.answers import StreamReader, read_choices
from proxy.wires.completions import COMPLETIONS

PATH = "/v1/completions"
ASK = {"model": "m", "prompt": "How do I kill a process?"}
BOTH = {"surfaces": ["chat", "completions"]}


def body(*texts, **fields):
    choices = [{"index": index, "text": text, "finish_reason": "stop"} for index, text in enumerate(texts)]
    return json.dumps({"id": "c", "object": "text_completion", "choices": choices, **fields}).encode()


@pytest.mark.parametrize(
    ("prompt", "messages", "reason"),
    [
        ("hi", (Message("user", "hi"),), None),
        (["hi"], (Message("user", "hi"),), None),
        (["a", "b"], (Message("user", "a"), Message("user", "b")), "several prompts"),
        ([1, 2], (), "not text"),
        ([[1], [2]], (), "not text"),
        (None, (), "not text"),
        ([], (), "not text"),
    ],
)
def test_prompts(prompt, messages, reason):
    conversation = COMPLETIONS.conversation({"prompt": prompt})
    assert conversation.messages == messages
    assert conversation.text_only is bool(messages)
    assert (conversation.observe_only is None) is (reason is None)
    assert reason is None or reason in conversation.observe_only


@pytest.mark.parametrize(("fields", "reason"), [({"echo": True}, "echo"), ({"suffix": "end"}, "suffix")])
def test_why_a_request_is_only_observed(fields, reason):
    assert reason in COMPLETIONS.conversation({**ASK, **fields}).observe_only


def test_an_echoed_prompt_is_no_part_of_the_answer(sse):
    payload = {"prompt": ["ab", "cd"], "n": 2, "echo": True}
    choices = read_choices(body("ab1", "ab2", "cd3", "x"), COMPLETIONS.gather(payload))
    assert [choice.texts[0] for choice in choices.values()] == ["1", "2", "3", "x"]
    reader = StreamReader(COMPLETIONS.gather(payload))
    texts = ["a", "b1", " more"]
    pieces = sse(*({"choices": [{"index": 0, "text": text}]} for text in texts))
    assert reader.feed(b"".join(pieces)) == {0: "1 more"}


@pytest.mark.parametrize("stream", [False, True])
async def test_recovery_where_the_engine_steers_it(raw, start_proxy, post, sse, refused, stream):
    report = {"rass": {"steered": True}}
    if stream:
        raw.pieces = sse({"id": "c", "choices": [{"index": 0, "text": refused}]})
        steered = b"".join(sse({"id": "c", "choices": [{"index": 0, "text": "Use kill."}], **report}))
    else:
        raw.pieces = [body(refused)]
        steered = body("Use kill.", **report)
    raw.attempts = [steered]
    observed = await start_proxy(url=raw.url)
    _, headers, answer = await post(observed, PATH, {**ASK, "stream": stream})
    assert answer == raw.whole
    assert headers["x-rass-action"] == ("observing" if stream else "refusal-kept")
    proxy = await start_proxy(url=raw.url, recovery=BOTH)
    _, headers, answer = await post(proxy, PATH, {**ASK, "stream": stream})
    assert headers["x-rass-action"] == "recovered"
    assert b"Use kill." in answer
    assert b"rass" not in answer
    assert raw.seen[-1][0] == PATH
    assert raw.seen[-1][1]["prompt"] == ASK["prompt"]


async def test_a_prompt_takes_no_note(raw, start_proxy, post, refused):
    raw.pieces = [body(refused)]
    proxy = await start_proxy(url=raw.url, recovery={**BOTH, "clarify": "always", "ladder": ["clarify"]})
    _, headers, answer = await post(proxy, PATH, ASK)
    assert (headers["x-rass-action"], headers["x-rass-attempts"]) == ("refusal-kept", "0")
    assert answer == raw.whole
