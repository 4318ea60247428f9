"""Several choices: each is judged, refused ones alone are recovered, the others stay as they are."""

from __future__ import annotations

import json

import pytest

from proxy.answers import StreamReader, read_choices, stream_without_report
from proxy.choice_bytes import Replacement, continued, replaced_streams
from proxy.exchange import Mode
from proxy.stream import SseParser
from proxy.wires.chat import CHAT

KILL = "How do I kill a process?"
REFUSED = "I'm sorry, but I cannot help with that."
PARTIAL = "I'm sorry, I cannot say much; however, there is a command."
TEXTS = ("First answer.", REFUSED, "Third answer.")


@pytest.fixture
def several(model, script):
    """Makes the scripted model answer with several choices; steered, it answers with one."""

    def make(*texts, steered="Use kill.", usage=None):
        plain_body, plain_events = model._completion, model._events

        def choice(index, text, **fields):
            return {"index": index, "finish_reason": "stop", "logprobs": {"of": index}, **fields, "odd": {"of": text}}

        def body(scripted, way):
            if way != "plain":
                return plain_body(scripted, way)
            choices = [choice(i, text, message={"role": "assistant", "content": text}) for i, text in enumerate(texts)]
            payload = {"id": "c1", "choices": choices, "usage": usage, "odd_field": True}
            return json.dumps(payload, indent=1).encode()

        def events(scripted, way):
            if way != "plain":
                return plain_events(scripted, way)
            pieces = [
                {"index": i, "delta": {"content": text[at : at + 5]}, "finish_reason": None}
                for at in range(0, 60, 5)
                for i, text in enumerate(texts)
                if text[at : at + 5]
            ]
            ends = [{"index": i, "delta": {}, "finish_reason": "stop"} for i in range(len(texts))]
            chunks = [{"id": "c1", "choices": [piece]} for piece in [*pieces, *ends]]
            if usage is not None:
                chunks.append({"id": "c1", "choices": [], "usage": usage})
            written = [b": beat\n\n" + b"data: " + json.dumps(each).encode() + b"\r\n\r\n" for each in chunks]
            return [*written, b"data: [DONE]\n\n"]

        model.scripts[KILL] = script(REFUSED, steered=steered)
        model._completion, model._events = body, events

    return make


def texts_of(body, *, stream):
    if not stream:
        return {index: each.texts[0] for index, each in read_choices(body, CHAT.gather({})).items()}
    reader = StreamReader(CHAT.gather({}))
    reader.feed(body)
    assert reader.done
    return {index: each.texts[0] for index, each in reader.choices().items()}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_choice_alone_is_recovered(model, several, start_proxy, stream):
    several(*TEXTS)
    proxy = await start_proxy()
    _, headers, body = await proxy.ask(KILL, n=3, stream=stream)
    assert texts_of(body, stream=stream) == {0: "First answer.", 1: "Use kill.", 2: "Third answer."}
    assert headers["x-rass-action"] == "recovered"
    assert headers["x-rass-attempts"] == "1"
    assert "n" not in model.requests[1]
    assert b'"rass"' not in body


async def test_the_other_choices_keep_their_content(several, start_proxy):
    several(*TEXTS)
    proxy = await start_proxy()
    _, _, original = await proxy.ask(KILL, n=3, headers={"x-rass-mode": "observe"})
    _, _, body = await proxy.ask(KILL, n=3)
    before, after = json.loads(original), json.loads(body)
    assert [before["choices"][i] for i in (0, 2)] == [after["choices"][i] for i in (0, 2)]
    assert {name: value for name, value in before.items() if name not in ("choices", "usage")} == {
        name: value for name, value in after.items() if name not in ("choices", "usage")
    }
    assert after["choices"][1]["index"] == 1
    assert "odd" not in after["choices"][1]


async def test_the_other_choices_events_keep_their_bytes(model, several, start_proxy):
    several(*TEXTS)
    proxy = await start_proxy()
    _, _, body = await proxy.ask(KILL, n=3, stream=True)
    whole = model.stream_bytes(KILL)
    kept = [event for event in whole.split(b": beat\n\n") if b'"index": 1' not in event and b"[DONE]" not in event]
    assert len(kept) > 5
    assert all(event in body for event in kept)
    identities = {json.loads(event.data)["id"] for event in SseParser().feed(body) if event.data != "[DONE]"}
    assert identities == {"c1"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("steered", [REFUSED, ""])
async def test_where_nothing_is_recovered_all_bytes_stay(model, several, start_proxy, stream, steered):
    several(*TEXTS, steered=steered)
    proxy = await start_proxy()
    _, headers, body = await proxy.ask(KILL, n=3, stream=stream)
    expected = model.stream_bytes(KILL) if stream else model._completion(model.scripts[KILL], "plain")
    assert body == expected
    assert headers["x-rass-action"] == "recovery-failed"


@pytest.mark.parametrize("stream", [False, True])
async def test_attempts_of_all_choices_share_one_limit(several, start_proxy, stream):
    several(REFUSED, REFUSED, REFUSED)
    proxy = await start_proxy(recovery={"max_attempts": 2})
    _, headers, body = await proxy.ask(KILL, n=3, stream=stream)
    assert texts_of(body, stream=stream) == {0: "Use kill.", 1: "Use kill.", 2: REFUSED}
    assert headers["x-rass-attempts"] == "2"
    assert proxy.total("rass_recoveries_total", step="steer", result="answered") == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_counts_what_the_client_received(several, start_proxy, stream):
    counted = {"prompt_tokens": 7, "completion_tokens": 20, "total_tokens": 27}
    several("x" * 40, "I'm sorry".ljust(40, "."), usage=counted)
    proxy = await start_proxy()
    _, _, body = await proxy.ask(KILL, n=2, stream=stream)
    payloads = [json.loads(event.data) for event in SseParser().feed(body)[:-1]] if stream else [json.loads(body)]
    usage = next(payload["usage"] for payload in payloads if payload.get("usage"))
    attempt = 0 if stream else 5  # the scripted model's streams report no usage
    assert usage == {"prompt_tokens": 7, "completion_tokens": 10 + attempt, "total_tokens": 17 + attempt}


async def test_each_choice_is_judged_in_mode_observe(several, start_proxy):
    several(*TEXTS)
    proxy = await start_proxy(Mode.OBSERVE)
    _, headers, _ = await proxy.ask(KILL, n=3)
    assert headers["x-rass-action"] == "refusal-kept"
    assert proxy.total("rass_refusals_total", kind="over", language="en") == 1


async def test_half_a_character_does_not_keep_an_answer_from_its_client(several, start_proxy):
    several("Half: \ud83d", REFUSED, steered="Also half: \ude00")
    proxy = await start_proxy()
    status, _, body = await proxy.ask(KILL, n=2)
    assert status == 200
    assert texts_of(body, stream=False) == {0: "Half: \ud83d", 1: "Also half: \ude00"}


def test_half_a_character_passes_where_a_streams_events_are_written_anew():
    def event(**fields):
        chunk = {"id": "c2", "choices": [{"index": 0, "delta": {"content": "\ud83d"}}], **fields}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    end = b"data: [DONE]\n\n"
    clean = stream_without_report(event(rass={"steered": True}) + end)
    assert json.loads(SseParser().feed(clean)[0].data) == json.loads(SseParser().feed(event())[0].data)
    for written in (
        continued(b'data: {"id": "c1"}\n\n', clean),
        replaced_streams(clean, {0: Replacement(clean, 1)}, 1),
    ):
        assert texts_of(written, stream=True) == {0: "\ud83d"}


@pytest.mark.parametrize("texts", [(PARTIAL, PARTIAL), (REFUSED, PARTIAL)])
async def test_partial_choices_are_recovered_where_that_is_configured(model, several, start_proxy, texts):
    several(*texts)
    proxy = await start_proxy(recovery={"partial": True})
    _, headers, body = await proxy.ask(KILL, n=2)
    assert texts_of(body, stream=False) == {0: "Use kill.", 1: "Use kill."}
    assert (headers["x-rass-action"], headers["x-rass-attempts"]) == ("recovered", "2")
    assert [request for request in model.requests[1:] if "n" in request] == []


async def test_a_partial_choice_near_the_boundary_stays(model, several, start_proxy):
    several(REFUSED, PARTIAL)
    model.scripts[KILL].h = 0.5
    proxy = await start_proxy(recovery={"partial": True})
    _, _, body = await proxy.ask(KILL, n=2)
    assert texts_of(body, stream=False) == {0: "Use kill.", 1: PARTIAL}
