"""Whole answers: byte identity, recovery, and what is never recovered."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest

from proxy.exchange import Mode

KILL = "How do I kill a process?"
SECRET = "7.654"


async def raw_bytes(proxy, model, prompt, **fields):
    body = {"model": "scripted", "messages": [{"role": "user", "content": prompt}], **fields}
    async with proxy.session.post(f"{model.url}/v1/chat/completions", json=body) as response:
        return await response.read()


@pytest.mark.parametrize("mode", list(Mode))
async def test_an_answer_passes_byte_for_byte(model, start_proxy, script, mode):
    model.scripts["hello"] = script("Grüße \u2028 an alle 你好")
    proxy = await start_proxy(mode)
    status, headers, body = await proxy.ask("hello")
    assert status == 200
    assert body == await raw_bytes(proxy, model, "hello")
    assert headers["content-type"].startswith("application/json")
    assert headers["x-rass-action"] == ("off" if mode is Mode.OFF else "delivered")
    assert headers.get("x-rass-refusal") == (None if mode is Mode.OFF else "answer")


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.OBSERVE])
async def test_a_refusal_passes_byte_for_byte_unless_it_is_recovered(model, start_proxy, script, refusal, mode):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(mode)
    _, _, body = await proxy.ask(KILL)
    assert body == await raw_bytes(proxy, model, KILL)
    assert len(model.requests) == 2  # ours and the raw one: no attempt


async def test_observe_says_and_counts_what_it_saw(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal)
    proxy = await start_proxy(Mode.OBSERVE)
    _, headers, _ = await proxy.ask(KILL)
    assert headers["x-rass-action"] == "refusal-kept"
    assert headers["x-rass-zone"] == "benign"
    assert headers["x-rass-refusal"] == "full"
    assert headers["x-rass-attempts"] == "0"
    assert proxy.total("rass_refusals_total", kind="over", language="en") == 1
    assert proxy.total("rass_zones_total", zone="benign") == 1
    assert proxy.total("rass_requests_total", outcome="refusal-kept", mode="observe") == 1


async def test_the_language_is_told_only_of_refused_requests(model, start_proxy, script, refusal, eventually):
    model.scripts["hello"] = script("Hi there.")
    model.scripts[KILL] = script(refusal)
    asked: list[str] = []

    def language(text: str) -> str:
        asked.append(text)
        return "en"

    proxy = await start_proxy(Mode.OBSERVE, detectors={"language": language})
    await proxy.ask("hello")
    await proxy.ask("hello", stream=True)
    # A relayed stream is judged once the client has it.
    await eventually(lambda: proxy.total("rass_requests_total", outcome="delivered", mode="observe") == 2)
    assert asked == []
    await proxy.ask(KILL)
    assert asked == [KILL]


async def test_an_over_refusal_is_recovered(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use the kill command.")
    proxy = await start_proxy()
    status, headers, body = await proxy.ask(KILL, temperature=0)
    payload = json.loads(body)
    assert status == 200
    assert payload["choices"][0]["message"]["content"] == "Use the kill command."
    assert "rass" not in payload
    assert headers["x-rass-action"] == "recovered"
    assert headers["x-rass-attempts"] == "1"
    assert model.requests[1]["rass"] == {"steer": {"vector": "refusal-en@0123456789abcdef", "strength": 2.0}}
    assert model.requests[1]["temperature"] == 0
    assert proxy.total("rass_recoveries_total", step="steer", result="answered") == 1
    assert proxy.total("rass_refusals_total", kind="over", language="en") == 1


async def test_the_band_is_steered_with_its_own_strength(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.", h=0.5)
    proxy = await start_proxy()
    _, headers, _ = await proxy.ask(KILL)
    assert headers["x-rass-zone"] == "band"
    assert model.requests[1]["rass"]["steer"]["strength"] == 1.0
    assert proxy.total("rass_refusals_total", kind="unknown", language="en") == 1


async def test_a_warranted_refusal_stays_a_refusal(model, start_proxy, script, refusal):
    model.scripts["harmful"] = script(refusal, steered="never to be seen", h=9.0)
    proxy = await start_proxy()
    _, headers, body = await proxy.ask("harmful")
    assert body == await raw_bytes(proxy, model, "harmful")
    assert headers["x-rass-action"] == "warranted"
    assert all("rass" not in request for request in model.requests)
    assert proxy.total("rass_refusals_total", kind="warranted", language="en") == 1


async def test_coordinates_never_leave(model, start_proxy, script, refusal, eventually):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    model.scripts["again"] = script(refusal, steered=refusal)
    proxy = await start_proxy()
    for prompt in (KILL, "again"):
        for stream in (False, True):
            _, headers, body = await proxy.ask(prompt, stream=stream)
            assert SECRET.encode() not in body
            assert not any(SECRET in value for value in headers.values())
    async with proxy.session.get(f"{proxy.url}/metrics") as response:
        assert SECRET not in await response.text()


async def test_a_failed_attempt_delivers_the_original(model, start_proxy, script, refusal, failing_attempt):
    changes, result = failing_attempt
    model.scripts[KILL] = script(refusal, **changes)
    proxy = await start_proxy()
    _, headers, body = await proxy.ask(KILL)
    assert body == await raw_bytes(proxy, model, KILL)
    assert headers["x-rass-action"] == "recovery-failed"
    assert headers["x-rass-attempts"] == "1"
    assert proxy.total("rass_recoveries_total", step="steer", result=result) == 1


async def test_a_failing_upstream_is_tried_again_up_to_the_limit(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    model.attempt_status = 500
    proxy = await start_proxy(recovery={"max_attempts": 3})
    _, headers, body = await proxy.ask(KILL)
    assert headers["x-rass-attempts"] == "3"
    assert json.loads(body)["choices"][0]["message"]["content"] == refusal


async def test_an_attempt_out_of_time_delivers_the_original(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    model.hold_attempts = asyncio.Event()
    proxy = await start_proxy(recovery={"time_limit_s": 0.05})
    _, headers, _ = await proxy.ask(KILL)
    assert headers["x-rass-action"] == "recovery-failed"
    assert proxy.total("rass_recoveries_over_budget_total", budget="time") == 1


async def test_attempts_are_a_bounded_share_of_requests(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(recovery={"max_upstream_share": 0.5, "burst": 1})
    actions = [(await proxy.ask(KILL))[1]["x-rass-action"] for _ in range(6)]
    assert actions == ["recovered", "refusal-kept", "recovered", "refusal-kept", "recovered", "refusal-kept"]
    assert proxy.total("rass_recoveries_over_budget_total", budget="upstream_share") == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"store": True},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_what_may_have_effects_is_only_observed(model, start_proxy, script, refusal, fields):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy()
    _, headers, _ = await proxy.ask(KILL, **fields)
    assert headers["x-rass-action"] == "refusal-kept"
    assert len(model.requests) == 1


async def test_typed_refusals_filters_and_tool_calls_pass(model, start_proxy, script, refusal):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    model.scripts["typed"] = script("", message={"refusal": "No."})
    model.scripts["filter"] = script(refusal, finish_reason="content_filter")
    model.scripts["tool"] = script(refusal, message={"tool_calls": [call]})
    proxy = await start_proxy()
    for prompt in ("typed", "filter", "tool"):
        _, headers, body = await proxy.ask(prompt)
        assert body == await raw_bytes(proxy, model, prompt)
        assert headers["x-rass-zone"] == "unread"
    assert proxy.total("rass_refusals_total", form="typed") == 1
    assert proxy.total("rass_refusals_total", form="filter") == 1


async def test_a_language_without_a_vector_is_not_recovered(model, start_proxy, script, refusal):
    model.scripts["Wie beende ich das?"] = script(refusal, steered="So.")
    proxy = await start_proxy()
    _, headers, _ = await proxy.ask("Wie beende ich das?")
    assert headers["x-rass-action"] == "refusal-kept"
    assert proxy.total("rass_refusals_total", kind="over", language="de") == 1


async def test_without_a_reading_the_refusal_is_delivered_and_counted(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    model.read_status = 500
    proxy = await start_proxy()
    _, headers, body = await proxy.ask(KILL)
    assert headers["x-rass-action"] == "unjudged"
    assert headers["x-rass-zone"] == "unknown"
    assert body == await raw_bytes(proxy, model, KILL)
    assert proxy.total("rass_detector_failures_total", detector="boundary") == 1
    assert proxy.total("rass_refusals_total", kind="unknown", language="en") == 1


class BrokenRefusals:
    def judge(self, text):
        raise RuntimeError("broken")


async def test_a_detector_that_throws_leaves_the_answer_alone(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(detectors={"refusal": BrokenRefusals()})
    status, headers, body = await proxy.ask(KILL)
    assert status == 200
    assert headers["x-rass-action"] == "unjudged"
    assert body == await raw_bytes(proxy, model, KILL)
    assert proxy.total("rass_detector_failures_total", detector="refusal") == 1


async def test_a_header_may_only_lower_the_mode(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    recovering = await start_proxy(Mode.RECOVER)
    _, headers, _ = await recovering.ask(KILL, headers={"x-rass-mode": "observe"})
    assert headers["x-rass-action"] == "refusal-kept"
    observing = await start_proxy(Mode.OBSERVE)
    _, headers, _ = await observing.ask(KILL, headers={"x-rass-mode": "recover"})
    assert headers["x-rass-action"] == "refusal-kept"


async def test_an_upstream_error_is_relayed_as_it_is(model, start_proxy):
    proxy = await start_proxy()
    status, headers, body = await proxy.ask("no script")
    assert status == 404
    assert json.loads(body)["error"]["code"] == "model_not_found"
    assert headers["x-rass-action"] == "upstream-error"


async def test_an_answer_too_long_to_judge_is_relayed_whole(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal + "x" * 50_000)
    proxy = await start_proxy(limits={"max_judged_bytes": 10_000})
    _, headers, body = await proxy.ask(KILL)
    assert headers["x-rass-action"] == "unjudged"
    assert body == await raw_bytes(proxy, model, KILL)


async def test_a_client_that_leaves_cancels_the_upstreams_work(model, start_proxy, script, eventually):
    model.scripts["slow"] = script("answer")
    model.hold = asyncio.Event()
    proxy = await start_proxy()
    asking = asyncio.create_task(proxy.ask("slow"))
    await model.arrived.wait()
    asking.cancel()
    async with asyncio.timeout(30):
        await model.cancelled.wait()
    await eventually(lambda: proxy.total("rass_requests_total", outcome="client-gone", mode="recover") == 1)


async def test_an_attempt_is_a_request_of_its_own(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy()
    await proxy.ask(KILL, headers={"idempotency-key": "k1", "authorization": "Bearer t", "x-request-id": "mine-1"})
    first, second = model.headers
    assert first["idempotency-key"] == "k1"
    assert uuid.UUID(second["idempotency-key"])
    assert first["authorization"] == second["authorization"] == "Bearer t"
    assert first["x-request-id"] == "mine-1"
    assert not any(name.startswith("x-rass-") for name in first)
