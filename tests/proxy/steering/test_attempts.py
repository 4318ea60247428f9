"""Steered attempts as they leave the proxy: to the right server, under a name of their own, salted."""

from __future__ import annotations

import json

import pytest

from detectors.bundle import Steering
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.steering.hotwire import Hotwire, SlotBook
from proxy.steering.pair import Pair
from proxy.steering.vllm_lens import VllmLens
from proxy.upstream.http import HttpUpstream

PROMPT = "How do I kill a Python process?"


@pytest.fixture
async def steered_server(engine):
    upstream = HttpUpstream(Settings.model_validate({"upstream": {"url": engine.url}}).upstream, Metrics())
    yield upstream
    await upstream.close()


def only(steering):
    return lambda language, zone: steering if (language, str(zone)) == ("en", "benign") else None


async def test_a_pair_sends_the_request_to_the_one_and_the_attempt_to_the_other(
    model, engine, bundle, start_proxy, steered_server, script, refusal
):
    model.scripts[PROMPT] = script(refusal)
    steering = Steering(bundle.vector_id("refusal-en"), 2.0)
    proxy = await start_proxy(
        dependencies={"dialect": Pair(steering, "tiny"), "pair": steered_server, "plan": only(steering)},
        # the second server holds no coordinates: the answer is judged by the first
    )
    status, headers, body = await proxy.ask(PROMPT, headers={"x-request-id": "mine", "idempotency-key": "once"})
    assert (status, headers["x-rass-action"]) == (200, "recovered")
    assert json.loads(body)["choices"][0]["message"]["content"].startswith("About How do I")
    assert [request["model"] for request in model.requests] == ["scripted"]
    assert [request["model"] for request in engine.requests] == ["tiny"]
    assert "rass" not in engine.requests[0]
    assert engine.headers[0]["idempotency-key"] != "once"


async def test_what_the_second_server_was_not_started_with_is_not_tried(
    model, engine, bundle, start_proxy, steered_server, script, refusal
):
    model.scripts[PROMPT] = script(refusal)
    vector = bundle.vector_id("refusal-en")
    proxy = await start_proxy(
        dependencies={
            "dialect": Pair(Steering(vector, 2.0), None),
            "pair": steered_server,
            "plan": only(Steering(vector, 1.0)),
        }
    )
    _, headers, body = await proxy.ask(PROMPT)
    assert headers["x-rass-action"] == "refusal-kept"
    assert json.loads(body)["choices"][0]["message"]["content"] == refusal
    assert engine.requests == []
    assert proxy.total("rass_recoveries_total", step="steer", result="not_possible") == 1


@pytest.mark.parametrize("kind", ["hotwire", "vllm-lens"])
async def test_an_attempt_towards_vllm_has_a_name_and_a_salt_of_its_own(
    model, bundle, start_proxy, script, refusal, kind
):
    model.scripts[PROMPT] = script(refusal)
    steering = Steering(bundle.vector_id("refusal-en"), 2.0)
    dialect = Hotwire(bundle, SlotBook(16)) if kind == "hotwire" else VllmLens(bundle)
    proxy = await start_proxy(dependencies={"dialect": dialect, "plan": only(steering)}, recovery={"max_attempts": 1})
    await proxy.ask(PROMPT, cache_salt="mine", headers={"x-request-id": "mine"})
    plain, attempt = model.requests
    assert (plain["cache_salt"], model.headers[0]["x-request-id"]) == ("mine", "mine")
    assert attempt["cache_salt"] not in ("mine", "")
    assert model.headers[1]["x-request-id"].startswith("rass-")
    assert isinstance(next(iter(attempt["vllm_xargs"].values())), str)
    assert {**attempt, "cache_salt": "mine"}.items() >= plain.items()
