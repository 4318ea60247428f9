"""Mode shadow: clients get the original, and what recovery would have done is on record."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.audit import Audit
from proxy.exchange import Mode
from proxy.metric_labels import LABELS

KILL = "How do I kill a process?"
both_ways = pytest.mark.parametrize("stream", [False, True])


@both_ways
@pytest.mark.parametrize(
    ("steered", "outcome"), [("Use kill.", "shadow-recovered"), ("I'm sorry, still no.", "shadow-failed")]
)
async def test_the_original_is_delivered_and_both_are_recorded(
    model, start_proxy, script, refusal, eventually, tmp_path, stream, steered, outcome
):
    path = tmp_path / "audit.jsonl"
    model.scripts[KILL] = script(refusal, steered=steered)
    model.hold_attempts = asyncio.Event()
    proxy = await start_proxy(Mode.SHADOW, audit=Audit(path, include_text=True))
    _, headers, body = await proxy.ask(KILL, stream=stream)  # comes although the attempt is held
    if stream:
        assert body == model.stream_bytes(KILL)
        assert headers["x-rass-action"] == "observing"
    else:
        assert json.loads(body)["choices"][0]["message"]["content"] == refusal
        assert headers["x-rass-action"] == "refusal-kept"
    assert headers["x-rass-attempts"] == "0"
    model.hold_attempts.set()
    await eventually(lambda: proxy.total("rass_shadow_recoveries_total", outcome=outcome) == 1)
    assert proxy.total("rass_requests_total", outcome="refusal-kept", mode="shadow") == 1
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert first["request_id"] == second["request_id"]
    assert (first["action"], first["attempts"]) == ("refusal-kept", [])
    assert second["action"] == outcome
    assert len(second["attempts"]) == 1
    assert first["delivered"] == second["delivered"] == refusal
    assert second["shadow"] == ("Use kill." if outcome == "shadow-recovered" else "")


async def test_only_over_refusals_are_tried_in_the_background(model, start_proxy, script, refusal, eventually):
    model.scripts["hello"] = script("hi", steered="x")
    model.scripts["harmful"] = script(refusal, steered="x", h=9.0)
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(Mode.SHADOW)
    for prompt in ("hello", "harmful", KILL):
        await proxy.ask(prompt)
    await eventually(lambda: proxy.total("rass_shadow_recoveries_total", outcome="shadow-recovered") == 1)
    assert model.ways == ["plain", "plain", "plain", "steer"]


async def test_background_recoveries_are_bounded(model, start_proxy, script, refusal, eventually):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    model.hold_attempts = asyncio.Event()
    proxy = await start_proxy(Mode.SHADOW, recovery={"shadow_tasks": 2})
    for _ in range(5):
        await proxy.ask(KILL)
    await eventually(lambda: proxy.total("rass_recoveries_over_budget_total", budget="shadow_tasks") == 3)
    model.hold_attempts.set()
    await eventually(lambda: proxy.total("rass_shadow_recoveries_total", outcome="shadow-recovered") == 2)
    assert model.ways.count("steer") == 2


async def test_the_budgets_bound_the_background_too(model, start_proxy, script, refusal, eventually):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(Mode.SHADOW, recovery={"max_upstream_share": 0.1, "burst": 1})
    for _ in range(3):
        await proxy.ask(KILL)
    await eventually(lambda: proxy.total("rass_shadow_recoveries_total", outcome="refusal-kept") == 2)
    assert "refusal-kept" in LABELS["rass_shadow_recoveries_total.outcome"].values
    assert model.ways.count("steer") == 1


async def test_shutting_down_ends_what_runs_in_the_background(model, start_proxy, script, refusal, eventually):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    model.hold_attempts = asyncio.Event()
    proxy = await start_proxy(Mode.SHADOW)
    await proxy.ask(KILL)
    await eventually(lambda: model.ways.count("steer") == 1)
    before = {task for task in asyncio.all_tasks() if "Shadow._run" in repr(task)}
    assert len(before) == 1
    await proxy.stop()
    assert all(task.done() for task in before)
    assert proxy.total("rass_shadow_recoveries_total", outcome="shadow-recovered") == 0
