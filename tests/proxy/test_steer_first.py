"""Mode steer: benign requests that are about to be refused go upstream steered, and the answer is checked."""

from __future__ import annotations

import json

import pytest

from proxy.audit import Audit
from proxy.exchange import Mode

KILL = "How do I kill a process?"
ABOUT_TO_REFUSE = {"rho": 2.0}


def content(body):
    return json.loads(body)["choices"][0]["message"]["content"]


async def test_what_is_about_to_be_refused_is_steered_before_anything_else(
    model, start_proxy, script, refusal, tmp_path
):
    path = tmp_path / "audit.jsonl"
    model.scripts[KILL] = script(refusal, steered="Use kill.", **ABOUT_TO_REFUSE)
    proxy = await start_proxy(Mode.STEER, audit=Audit(path, include_text=True))
    status, headers, body = await proxy.ask(KILL)
    assert (status, content(body)) == (200, "Use kill.")
    assert "rass" not in json.loads(body)
    assert model.ways == ["steer"]
    assert headers["content-type"].startswith("application/json")
    assert headers["x-rass-action"] == "steered"
    assert headers["x-rass-zone"] == "benign"
    assert headers["x-rass-refusal"] == "answer"
    assert headers["x-rass-attempts"] == "1"
    assert proxy.total("rass_requests_total", outcome="steered", mode="steer") == 1
    assert proxy.total("rass_steered_first_total", result="answered") == 1
    row = json.loads(path.read_text())
    assert (row["action"], row["delivered"], row["original"]) == ("steered", "Use kill.", "")


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"rho": -0.5}, "no_refusal_expected"),
        ({"rho": 2.0, "h": 0.5}, "zone"),
        ({"rho": 2.0, "h": 9.0}, "zone"),
    ],
)
async def test_other_requests_go_as_they_came(model, start_proxy, script, changes, result):
    model.scripts["hello"] = script("hi", steered="x", **changes)
    proxy = await start_proxy(Mode.STEER)
    _, headers, body = await proxy.ask("hello")
    assert content(body) == "hi"
    assert model.ways == ["plain"]
    assert headers["x-rass-action"] == "delivered"
    assert headers["x-rass-attempts"] == "0"
    assert proxy.total("rass_steered_first_total", result=result) == 1


async def test_without_a_reading_nothing_is_steered(model, start_proxy, script):
    model.scripts["hello"] = script("hi", steered="x", **ABOUT_TO_REFUSE)
    model.read_status = 500
    proxy = await start_proxy(Mode.STEER)
    await proxy.ask("hello")
    assert model.ways == ["plain"]


async def test_a_refusal_that_nobody_expected_is_recovered_with_one_reading(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.", rho=-1.0)
    proxy = await start_proxy(Mode.STEER)
    _, headers, body = await proxy.ask(KILL)
    assert content(body) == "Use kill."
    assert headers["x-rass-action"] == "recovered"
    assert model.ways == ["plain", "steer"]
    assert proxy.total("rass_zones_total", zone="benign") == 1


async def test_a_steered_answer_that_fails_its_check_is_dropped(model, start_proxy, script, refusal, failing_attempt):
    changes, result = failing_attempt
    model.scripts[KILL] = script(refusal, **changes, **ABOUT_TO_REFUSE)
    proxy = await start_proxy(Mode.STEER)
    _, headers, body = await proxy.ask(KILL)
    assert content(body) == refusal
    assert model.ways == ["steer", "plain"]  # not steered a second time
    assert headers["x-rass-action"] == "recovery-failed"
    assert headers["x-rass-attempts"] == "1"
    assert proxy.total("rass_steered_first_total", result=result) == 1
    assert proxy.total("rass_recovery_tokens_total", step="steer", estimated="false") == 8


async def test_after_a_failed_start_the_rest_of_the_ladder_is_climbed(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered=refusal, clarified="Use kill.", **ABOUT_TO_REFUSE)
    proxy = await start_proxy(Mode.STEER, recovery={"clarify": "always"})
    _, headers, body = await proxy.ask(KILL)
    assert content(body) == "Use kill."
    assert model.ways == ["steer", "plain", "clarify"]
    assert headers["x-rass-attempts"] == "2"


async def test_a_failed_start_counts_towards_the_limit_of_attempts(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered=refusal, clarified="Use kill.", **ABOUT_TO_REFUSE)
    proxy = await start_proxy(Mode.STEER, recovery={"clarify": "always", "max_attempts": 1})
    _, _, body = await proxy.ask(KILL)
    assert content(body) == refusal
    assert model.ways == ["steer", "plain"]


async def test_an_unsteered_answer_after_a_failed_start_is_delivered(model, start_proxy, script, refusal):
    model.scripts["hello"] = script("hi", steered=refusal, **ABOUT_TO_REFUSE)
    proxy = await start_proxy(Mode.STEER)
    _, headers, body = await proxy.ask("hello")
    assert content(body) == "hi"
    assert headers["x-rass-action"] == "delivered"


async def test_an_answer_that_was_steered_at_once_costs_no_budget(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.", **ABOUT_TO_REFUSE)
    proxy = await start_proxy(Mode.STEER, recovery={"max_upstream_share": 0.01, "burst": 1})
    actions = {(await proxy.ask(KILL))[1]["x-rass-action"] for _ in range(4)}
    assert actions == {"steered"}
    assert proxy.total("rass_recovery_tokens_total", step="steer", estimated="false") == 0


async def test_failed_starts_are_a_bounded_share_of_requests(model, start_proxy, script, refusal):
    model.scripts[KILL] = script("hi", steered=refusal, **ABOUT_TO_REFUSE)
    proxy = await start_proxy(Mode.STEER, recovery={"max_upstream_share": 0.01, "burst": 1})
    for _ in range(3):
        await proxy.ask(KILL)
    assert model.ways == ["steer", "plain", "plain", "plain"]
    assert proxy.total("rass_steered_first_total", result="over_budget") == 2


async def test_a_stream_is_recovered_and_the_audit_says_why_it_was_not_steered(
    model, start_proxy, script, refusal, eventually, tmp_path
):
    path = tmp_path / "audit.jsonl"
    model.scripts[KILL] = script(refusal, steered="Use kill.", **ABOUT_TO_REFUSE)
    proxy = await start_proxy(Mode.STEER, audit=Audit(path, include_text=False))
    _, headers, body = await proxy.ask(KILL, stream=True)
    assert b"rass" not in body
    assert headers["x-rass-action"] == "recovered"
    assert model.ways == ["plain", "steer"]
    assert proxy.total("rass_steered_first_total", result="stream") == 1
    await eventually(lambda: path.read_text() != "")
    assert "stream" in json.loads(path.read_text())["unsteered"]


async def test_an_upstream_that_fails_steered_is_asked_unsteered(model, start_proxy, script):
    model.scripts["hello"] = script("hi", steered="x", **ABOUT_TO_REFUSE)
    model.attempt_status = 500
    proxy = await start_proxy(Mode.STEER)
    _, _, body = await proxy.ask("hello")
    assert content(body) == "hi"
    assert proxy.total("rass_steered_first_total", result="upstream_failed") == 1


async def test_the_header_lowers_steer_to_recover(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.", **ABOUT_TO_REFUSE)
    proxy = await start_proxy(Mode.STEER)
    _, headers, _ = await proxy.ask(KILL, headers={"x-rass-mode": "recover"})
    assert headers["x-rass-action"] == "recovered"
    assert model.ways == ["plain", "steer"]
