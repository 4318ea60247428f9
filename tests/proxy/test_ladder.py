"""The ladder end to end: each step, in streams and out of them, its order, its budgets and what travels along."""

from __future__ import annotations

import json
import uuid

import pytest

from proxy.answers import StreamReader
from proxy.audit import Audit
from proxy.clarify import load_notes
from proxy.exchange import Mode
from proxy.wires.chat import CHAT

KILL = "How do I kill a process?"
STILL = "I'm sorry, still no."
ALL_STEPS = {"clarify": "always", "fallback": {"model": "other"}}
both_ways = pytest.mark.parametrize("stream", [False, True])


def text_of(body, stream):
    if not stream:
        return json.loads(body)["choices"][0]["message"]["content"]
    reader = StreamReader(CHAT.gather({}))
    reader.feed(body)
    assert reader.done
    return reader.answer().texts[0]


@both_ways
@pytest.mark.parametrize(
    ("answers", "ways"),
    [
        ({"steered": "Use kill."}, ["plain", "steer"]),
        ({"steered": STILL, "clarified": "Use kill."}, ["plain", "steer", "clarify"]),
        ({"steered": STILL, "clarified": STILL, "other": "Use kill."}, ["plain", "steer", "clarify", "fallback"]),
    ],
)
async def test_each_step_recovers_what_those_before_it_did_not(
    model, start_proxy, script, refusal, stream, answers, ways
):
    model.scripts[KILL] = script(refusal, **answers)
    proxy = await start_proxy(recovery=ALL_STEPS)
    _, headers, body = await proxy.ask(KILL, stream=stream)
    assert text_of(body, stream) == "Use kill."
    assert model.ways == ways
    assert headers["x-rass-action"] == "recovered"
    assert headers["x-rass-attempts"] == str(len(ways) - 1)
    assert proxy.total("rass_recoveries_total", step=ways[-1], result="answered") == 1


@both_ways
async def test_when_no_step_helps_the_original_goes_out(model, start_proxy, script, refusal, stream):
    model.scripts[KILL] = script(refusal, steered=STILL, clarified=STILL, other=STILL)
    proxy = await start_proxy(recovery=ALL_STEPS)
    _, headers, body = await proxy.ask(KILL, stream=stream)
    assert text_of(body, stream) == refusal
    assert headers["x-rass-action"] == "recovery-failed"
    assert headers["x-rass-attempts"] == "3"


@both_ways
@pytest.mark.parametrize("step", ["clarify", "fallback"])
async def test_a_harmful_answer_of_any_step_is_not_delivered(model, start_proxy, script, refusal, stream, step):
    model.scripts[KILL] = script(refusal, clarified="Use kill.", other="Use kill.", answer_h=5.0)
    proxy = await start_proxy(recovery={**ALL_STEPS, "ladder": [step]})
    _, headers, body = await proxy.ask(KILL, stream=stream)
    assert text_of(body, stream) == refusal
    assert headers["x-rass-action"] == "recovery-failed"
    assert proxy.total("rass_recoveries_total", step=step, result="harmful") == 1


@pytest.mark.parametrize("step", ["steer", "clarify", "fallback"])
async def test_without_a_check_of_answers_nothing_is_recovered(model, start_proxy, script, refusal, step):
    model.scripts[KILL] = script(refusal, steered="x", clarified="x", other="x")
    proxy = await start_proxy(recovery={**ALL_STEPS, "ladder": [step]}, detectors={"answer_harm": None})
    _, headers, _ = await proxy.ask(KILL)
    assert headers["x-rass-action"] == "refusal-kept"
    assert model.ways == ["plain"]


async def test_the_ladder_is_the_configured_one(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.", clarified=STILL, other=STILL)
    proxy = await start_proxy(recovery={**ALL_STEPS, "ladder": ["fallback", "steer"]})
    await proxy.ask(KILL)
    assert model.ways == ["plain", "fallback", "steer"]


async def test_clarify_needs_a_bundle_that_validated_it_unless_told_otherwise(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, clarified="Use kill.")
    proxy = await start_proxy(recovery={"ladder": ["clarify"]})
    _, headers, _ = await proxy.ask(KILL)
    assert headers["x-rass-action"] == "refusal-kept"
    assert model.ways == ["plain"]


async def test_the_note_is_in_the_requests_language_after_the_clients_system_message(
    model, start_proxy, script, refusal
):
    question = "Wie beende ich das?"
    model.scripts[question] = script(refusal, clarified="So.")
    proxy = await start_proxy(recovery={"ladder": ["clarify"], "clarify": "always"})
    turns = [{"role": "system", "content": "Sei kurz."}, {"role": "user", "content": question}]
    _, headers, _ = await proxy.ask(question, messages=turns)
    assert headers["x-rass-action"] == "recovered"
    first, second = model.requests
    assert first["messages"] == turns
    assert second["messages"] == [{"role": "system", "content": f"Sei kurz.\n\n{load_notes().note('de')}"}, turns[1]]


async def test_near_the_boundary_the_ladder_is_cautious(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered=STILL, clarified="x", other="Use kill.", h=0.5)
    cautious = await start_proxy(recovery=ALL_STEPS)
    _, headers, _ = await cautious.ask(KILL)
    assert model.ways == ["plain", "steer"]
    assert headers["x-rass-action"] == "recovery-failed"
    model.requests.clear()
    as_safe = await start_proxy(recovery={**ALL_STEPS, "fallback": {"model": "other", "allow_band": True}})
    _, headers, _ = await as_safe.ask(KILL)
    assert model.ways == ["plain", "steer", "fallback"]
    assert headers["x-rass-action"] == "recovered"


async def test_the_fallback_models_own_name_stays_in_its_answer(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, other="Use kill.")
    proxy = await start_proxy(recovery={**ALL_STEPS, "ladder": ["fallback"]})
    _, _, body = await proxy.ask(KILL, headers={"authorization": "Bearer t"})
    assert json.loads(body)["model"] == "other-2025"
    assert model.headers[1]["authorization"] == "Bearer t"


async def test_a_request_for_the_fallback_model_has_no_fallback(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, other=refusal)
    proxy = await start_proxy(recovery={**ALL_STEPS, "ladder": ["fallback"]})
    _, headers, _ = await proxy.ask(KILL, model="other")
    assert headers["x-rass-action"] == "refusal-kept"
    assert len(model.requests) == 1


@pytest.mark.parametrize("key", [None, "k-other"])
async def test_another_upstream_gets_its_own_key_and_never_the_clients(model, start_proxy, script, refusal, key):
    model.scripts[KILL] = script(refusal, other="Use kill.")
    fallback = {"model": "other", "url": model.url, "api_key": key}
    proxy = await start_proxy(recovery={"ladder": ["fallback"], "fallback": fallback})
    sent = {"authorization": "Bearer t", "cookie": "c=1", "x-api-key": "t", "idempotency-key": "k1"}
    _, headers, _ = await proxy.ask(KILL, headers=sent)
    assert headers["x-rass-action"] == "recovered"
    elsewhere = model.headers[1]
    assert elsewhere.get("authorization") == (None if key is None else f"Bearer {key}")
    assert "cookie" not in elsewhere
    assert "x-api-key" not in elsewhere
    assert elsewhere["x-request-id"] == model.headers[0]["x-request-id"]
    assert uuid.UUID(elsewhere["idempotency-key"])


async def test_the_fallback_model_gets_no_steering_orders(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, other="Use kill.")
    proxy = await start_proxy(recovery={**ALL_STEPS, "ladder": ["fallback"]}, rights={"allow_client_steering": True})
    await proxy.ask(KILL, rass={"read": True})
    assert "rass" in model.requests[0]
    assert "rass" not in model.requests[1]


async def test_attempts_have_idempotency_keys_of_their_own_only_where_the_client_sent_one(
    model, start_proxy, script, refusal
):
    model.scripts[KILL] = script(refusal, steered=STILL, clarified="Use kill.")
    proxy = await start_proxy(recovery=ALL_STEPS)
    await proxy.ask(KILL, headers={"idempotency-key": "k1"})
    assert len({headers["idempotency-key"] for headers in model.headers}) == 3
    model.headers.clear()
    await proxy.ask(KILL)
    assert all("idempotency-key" not in headers for headers in model.headers)


@both_ways
@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("typed_refusals", {"text": "", "message": {"refusal": "No."}}),
        ("filters", {"text": "", "finish_reason": "content_filter"}),
    ],
)
async def test_typed_refusals_and_filters_are_recovered_only_if_configured(
    model, start_proxy, script, stream, setting, changes
):
    model.scripts[KILL] = script(steered="Use kill.", **changes)
    plain = await start_proxy()
    _, headers, _ = await plain.ask(KILL, stream=stream)
    assert model.ways == ["plain"]
    assert headers["x-rass-zone"] == "unread"
    proxy = await start_proxy(recovery={setting: True})
    _, headers, body = await proxy.ask(KILL, stream=stream)
    assert text_of(body, stream) == "Use kill."
    assert headers["x-rass-action"] == "recovered"


async def test_recovered_typed_refusals_stay_counted_apart(model, start_proxy, script):
    model.scripts[KILL] = script("", message={"refusal": "No."}, steered="Use kill.")
    proxy = await start_proxy(recovery={"typed_refusals": True})
    await proxy.ask(KILL)
    assert proxy.total("rass_refusals_total", form="typed") == 1
    assert proxy.total("rass_refusals_total", form="text") == 0


async def test_partial_answers_are_recovered_only_if_configured_and_not_in_streams(model, start_proxy, script):
    partial = "I'm sorry, I cannot say much; however, there is a command."
    model.scripts[KILL] = script(partial, steered="Use kill.")
    plain = await start_proxy()
    _, headers, _ = await plain.ask(KILL)
    assert headers["x-rass-action"] == "delivered"
    proxy = await start_proxy(recovery={"partial": True})
    _, headers, body = await proxy.ask(KILL)
    assert text_of(body, stream=False) == "Use kill."
    assert headers["x-rass-action"] == "recovered"
    _, _, body = await proxy.ask(KILL, stream=True)
    assert body == model.stream_bytes(KILL)


async def test_the_clients_usage_is_that_of_what_it_received(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered=STILL, clarified="Use kill.")
    proxy = await start_proxy(recovery=ALL_STEPS)
    _, _, body = await proxy.ask(KILL)
    assert json.loads(body)["usage"]["total_tokens"] == 8
    for step in ("steer", "clarify"):
        assert proxy.total("rass_recovery_tokens_total", step=step, estimated="false") == 8


@both_ways
async def test_tokens_that_nobody_reported_are_estimated_and_say_so(
    model, start_proxy, script, refusal, stream, tmp_path
):
    model.scripts[KILL] = script(refusal, steered="Use kill.", usage=False)
    path = tmp_path / "audit.jsonl"
    proxy = await start_proxy(audit=Audit(path, include_text=False))
    await proxy.ask(KILL, stream=stream)
    expected = 6 + 3  # a quarter of the bytes of the question and of the answer, rounded up
    assert proxy.total("rass_recovery_tokens_total", step="steer", estimated="true") == expected
    if not stream:
        (attempt,) = json.loads(path.read_text())["attempts"]
        assert (attempt["tokens"], attempt["estimated"]) == (expected, True)
        assert attempt["seconds"] > 0


async def test_attempts_stop_at_the_limit_of_tokens(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered=STILL, clarified="Use kill.")
    proxy = await start_proxy(recovery={**ALL_STEPS, "max_tokens": 8 + 5})  # one attempt (8), and no prompt (6) more
    _, headers, _ = await proxy.ask(KILL)
    assert model.ways == ["plain", "steer"]
    assert headers["x-rass-action"] == "recovery-failed"
    assert proxy.total("rass_recoveries_over_budget_total", budget="tokens") == 1


async def test_attempts_are_a_bounded_share_of_each_keys_requests(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(recovery={"max_key_share": 0.5, "key_burst": 1})
    actions = [(await proxy.ask(KILL))[1]["x-rass-action"] for _ in range(4)]
    assert actions == ["recovered", "refusal-kept", "recovered", "refusal-kept"]
    assert proxy.total("rass_recoveries_over_budget_total", budget="key_share") == 2


@pytest.mark.parametrize("mode", [Mode.RECOVER, Mode.STEER, Mode.SHADOW])
async def test_what_may_have_effects_takes_no_step_in_any_mode(model, start_proxy, script, refusal, mode):
    model.scripts[KILL] = script(refusal, steered="x", clarified="x", other="x", rho=1.0)
    proxy = await start_proxy(mode, recovery=ALL_STEPS)
    _, headers, _ = await proxy.ask(KILL, store=True)
    assert headers["x-rass-action"] == "refusal-kept"
    assert model.ways == ["plain"]
