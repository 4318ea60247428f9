"""Streams: identity however they are cut, heads held back, refusals replaced, failures named."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.refusal_stream import LONGEST_WAIT
from proxy.answers import StreamReader
from proxy.exchange import Mode
from proxy.settings.recovery import StreamSettings
from proxy.stream import SseParser
from proxy.wires.chat import CHAT

KILL = "How do I kill a process?"
ANSWER = "Grüße: use the kill command, 你好, and then look whether it is gone."
CUTS = st.lists(st.integers(min_value=0, max_value=3000), max_size=12)
RELAXED = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def text_of(body: bytes) -> str:
    reader = StreamReader(CHAT.gather({}))
    reader.feed(body)
    assert reader.done
    return reader.answer().texts[0]


@pytest.fixture
async def proxies(start_proxy):
    return {mode: await start_proxy(mode) for mode in Mode}


@RELAXED
@given(cuts=CUTS)
@pytest.mark.parametrize("mode", list(Mode))
async def test_an_answer_streams_byte_for_byte_however_it_is_cut(model, proxies, script, mode, cuts):
    model.scripts["hello"] = script(ANSWER)
    model.split_at = cuts
    _, headers, body = await proxies[mode].ask("hello", stream=True)
    assert body == model.stream_bytes("hello")
    expected = {Mode.OFF: "off", Mode.OBSERVE: "observing", Mode.SHADOW: "observing"}
    assert headers["x-rass-action"] == expected.get(mode, "delivered")
    assert headers["content-type"].startswith("text/event-stream")


@RELAXED
@given(cuts=CUTS)
async def test_a_kept_refusal_streams_byte_for_byte(model, proxies, script, refusal, cuts):
    model.scripts["harmful"] = script(refusal, h=9.0)
    model.split_at = cuts
    for mode in Mode:
        _, _, body = await proxies[mode].ask("harmful", stream=True)
        assert body == model.stream_bytes("harmful")


@RELAXED
@given(cuts=CUTS)
async def test_an_over_refusal_is_replaced_however_it_is_cut(model, proxies, script, refusal, cuts):
    model.scripts[KILL] = script(refusal, steered=ANSWER)
    model.split_at = cuts
    _, headers, body = await proxies[Mode.RECOVER].ask(KILL, stream=True)
    assert text_of(body) == ANSWER
    assert b"rass" not in body
    assert headers["x-rass-action"] == "recovered"
    assert headers["x-rass-zone"] == "benign"


async def test_a_warranted_refusal_says_so(model, start_proxy, script, refusal, eventually):
    model.scripts["harmful"] = script(refusal, steered="never to be seen", h=9.0)
    proxy = await start_proxy()
    _, headers, _ = await proxy.ask("harmful", stream=True)
    assert headers["x-rass-action"] == "warranted"
    assert all("rass" not in request for request in model.requests)
    await eventually(lambda: proxy.total("rass_refusals_total", kind="warranted", language="en") == 1)


async def test_a_streams_typed_refusal_is_called_what_a_whole_ones_is(model, start_proxy, script):
    model.scripts[KILL] = script("", message={"refusal": "No."})
    proxy = await start_proxy()
    (_, whole, _), (_, stream, _) = await proxy.ask(KILL), await proxy.ask(KILL, stream=True)
    for name in ("x-rass-action", "x-rass-zone", "x-rass-refusal", "x-rass-attempts"):
        assert stream[name] == whole[name]
    assert stream["x-rass-action"] == "unjudged"


async def test_an_observed_stream_is_judged_after_the_client_has_it(model, start_proxy, script, refusal, eventually):
    model.scripts[KILL] = script(refusal)
    proxy = await start_proxy(Mode.OBSERVE)
    await proxy.ask(KILL, stream=True)
    await eventually(lambda: proxy.total("rass_requests_total", outcome="refusal-kept", mode="observe") == 1)
    assert proxy.total("rass_refusals_total", kind="over", language="en") == 1


async def test_a_harmful_recovered_answer_is_not_delivered(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered=ANSWER, answer_h=5.0)
    proxy = await start_proxy()
    _, headers, body = await proxy.ask(KILL, stream=True)
    assert body == model.stream_bytes(KILL)
    assert headers["x-rass-action"] == "recovery-failed"


async def test_a_head_that_only_looked_like_a_refusal_changes_nothing(model, start_proxy, script, eventually):
    model.scripts[KILL] = script("I'm sorry that it hangs; however, kill will end it.", steered=ANSWER)
    proxy = await start_proxy()
    _, _, body = await proxy.ask(KILL, stream=True)
    assert body == model.stream_bytes(KILL)
    await eventually(lambda: proxy.total("rass_requests_total", outcome="delivered", mode="recover") == 1)


async def test_a_refusal_longer_than_the_buffer_goes_out_whole(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal + " No." * 2000, steered=ANSWER)
    proxy = await start_proxy(stream={"buffer_bytes": 20_000})
    _, headers, body = await proxy.ask(KILL, stream=True)
    assert body == model.stream_bytes(KILL)
    assert headers["x-rass-action"] == "recovery-failed"


async def test_an_undecided_head_is_let_go_after_its_time(model, start_proxy, script):
    model.scripts["hello"] = script("I'm")  # the detector never decides on this
    model.hold = asyncio.Event()
    proxy = await start_proxy(stream={"head_ms": 1})
    body = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body) as response:
        assert response.headers["x-rass-action"] == "delivered"
        model.hold.set()
        assert await response.read() == model.stream_bytes("hello")


async def test_comments_keep_the_connection_alive_while_recovery_takes_long(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered=ANSWER)
    model.hold_attempts = asyncio.Event()
    proxy = await start_proxy(stream={"headers_within_s": 0.01, "keepalive_s": 0.01})
    body = {"model": "scripted", "messages": [{"role": "user", "content": KILL}], "stream": True}
    async with proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body) as response:
        assert response.headers["x-rass-action"] == "recovering"
        assert "x-rass-attempts" not in response.headers
        first = await response.content.readany()
        assert first.startswith(b": working\n\n")
        model.hold_attempts.set()
        assert text_of(await response.read()) == ANSWER


async def test_a_stream_that_breaks_after_its_head_ends_with_an_error_event(model, start_proxy, script, eventually):
    model.scripts["hello"] = script(ANSWER)
    model.break_after = 1000
    for mode in Mode:
        proxy = await start_proxy(mode)
        status, _, body = await proxy.ask("hello", stream=True)
        assert status == 200
        error = json.loads(SseParser().feed(body)[-1].data)["error"]
        assert error["code"] == "upstream_broke"
        assert model.url in error["message"]
        failed = partial(proxy.total, "rass_requests_total", outcome="failed", mode=mode)
        await eventually(lambda count=failed: count() == 1)
        assert proxy.total("rass_requests_total") == 1


async def test_a_stream_that_breaks_before_its_head_is_an_error(model, start_proxy, script):
    model.scripts["hello"] = script(ANSWER)
    model.break_after = 1
    proxy = await start_proxy()
    status, _, body = await proxy.ask("hello", stream=True)
    assert status == 502
    assert json.loads(body)["error"]["code"] == "upstream_broke"


async def test_a_client_that_leaves_a_stream_cancels_the_upstreams_work(model, start_proxy, script, eventually):
    model.scripts["hello"] = script(ANSWER)
    for mode in Mode:
        model.hold = asyncio.Event()
        model.cancelled.clear()
        proxy = await start_proxy(mode)
        body = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        response = await proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body)
        await response.content.readany()
        response.close()
        async with asyncio.timeout(30):
            await model.cancelled.wait()
        gone = partial(proxy.total, "rass_requests_total", outcome="client-gone", mode=mode)
        await eventually(lambda count=gone: count() == 1)


async def test_a_client_that_leaves_during_recovery_ends_it(model, start_proxy, script, refusal, eventually):
    model.scripts[KILL] = script(refusal, steered=ANSWER)
    model.hold_attempts = asyncio.Event()
    proxy = await start_proxy()
    asking = asyncio.create_task(proxy.ask(KILL, stream=True))
    await eventually(lambda: len(model.requests) == 2)
    asking.cancel()
    await eventually(lambda: proxy.total("rass_requests_total", outcome="client-gone", mode="recover") == 1)
    assert proxy.total("rass_recoveries_total", step="steer", result="answered") == 0


async def test_tools_are_never_held(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered=ANSWER)
    proxy = await start_proxy()
    _, headers, body = await proxy.ask(KILL, stream=True, tools=[{"type": "function", "function": {"name": "f"}}])
    assert headers["x-rass-action"] == "observing"
    assert body == model.stream_bytes(KILL)


def test_a_head_is_held_as_long_as_the_refusal_detector_may_stay_unsure():
    assert StreamSettings().head_chars >= LONGEST_WAIT
