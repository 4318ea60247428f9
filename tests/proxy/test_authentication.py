"""Requests with and without keys through a running proxy."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from proxy.audit import Audit
from proxy.caller import Right
from proxy.exchange import Mode
from proxy.keys import Key, Keyring, generated

KILL = "How do I kill a process?"


def made(name="team", **fields):
    presented, secret = generated()
    key = Key(name=name, created=datetime(2026, 1, 1, tzinfo=UTC), secrets=(secret,), **fields)
    return key, {"authorization": f"Bearer {presented}"}


@pytest.mark.parametrize(
    ("authorization", "reason", "challenge"),
    [
        (None, "missing", 'Bearer realm="rass-proxy"'),
        ("Basic abc", "missing", 'Bearer realm="rass-proxy"'),
        ("Bearer sk-something", "unknown", 'Bearer realm="rass-proxy", error="invalid_token"'),
        ("Bearer ", "unknown", 'Bearer realm="rass-proxy", error="invalid_token"'),
    ],
)
async def test_without_a_key_nothing_passes(model, start_proxy, script, authorization, reason, challenge):
    model.scripts["hello"] = script("hi")
    proxy = await start_proxy(keyring=Keyring([made()[0]]))
    headers = {"x-request-id": "mine"} | ({} if authorization is None else {"authorization": authorization})
    status, seen, body = await proxy.ask("hello", headers=headers)
    error = json.loads(body)["error"]
    assert (status, error["code"], error["type"]) == (401, "invalid_api_key", "invalid_request_error")
    assert seen["www-authenticate"] == challenge
    assert seen["x-request-id"] == "mine"
    assert model.requests == []
    assert proxy.total("rass_unauthorized_total", reason=reason) == 1
    for path in ("/v1/models", "/v1/anything"):
        async with proxy.session.get(f"{proxy.url}{path}") as response:
            assert response.status == 401


async def test_an_expired_key_is_told_so(start_proxy):
    key, headers = made(expires=datetime(2026, 1, 2, tzinfo=UTC))
    proxy = await start_proxy(keyring=Keyring([key]))
    status, _, body = await proxy.ask("hello", headers=headers)
    assert status == 401
    assert "expired" in json.loads(body)["error"]["message"]


async def test_the_key_opens_and_stops_at_the_proxy(model, start_proxy, script):
    model.scripts["hello"] = script("hi")
    key, headers = made()
    proxy = await start_proxy(keyring=Keyring([key]))
    assert (await proxy.ask("hello", headers=headers))[0] == 200
    assert "authorization" not in model.headers[-1]
    upstream = {"url": model.url, "api_key": "upstream-key"}
    other = await start_proxy(keyring=Keyring([key]), upstream=upstream)
    assert (await other.ask("hello", headers=headers))[0] == 200
    assert model.headers[-1]["authorization"] == "Bearer upstream-key"
    async with other.session.get(f"{other.url}/v1/models", headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_operations_paths_are_open_or_not(start_proxy, path):
    key, headers = made()
    opened = await start_proxy(keyring=Keyring([key]))
    closed = await start_proxy(keyring=Keyring([key]), keys={"open_paths": ""})
    async with opened.session.get(f"{opened.url}{path}") as response:
        assert response.status == 200
    async with closed.session.get(f"{closed.url}{path}") as response:
        assert response.status == 401
    async with closed.session.get(f"{closed.url}{path}", headers=headers) as response:
        assert response.status == 200


async def test_a_keys_highest_mode_holds(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    low, low_headers = made("low", mode=Mode.OBSERVE)
    full, full_headers = made("full")
    proxy = await start_proxy(keyring=Keyring([low, full]))
    assert (await proxy.ask(KILL, headers=low_headers))[1]["x-rass-action"] == "refusal-kept"
    raising = {**low_headers, "x-rass-mode": "recover"}
    assert (await proxy.ask(KILL, headers=raising))[1]["x-rass-action"] == "refusal-kept"
    assert (await proxy.ask(KILL, headers=full_headers))[1]["x-rass-action"] == "recovered"


@pytest.mark.parametrize("stream", [False, True])
async def test_only_a_key_with_the_right_sees_the_distance(model, start_proxy, script, refusal, stream):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    plain, plain_headers = made("plain")
    trusted, trusted_headers = made("trusted", rights=(Right.DISTANCES,))
    proxy = await start_proxy(keyring=Keyring([plain, trusted]))
    _, seen, body = await proxy.ask(KILL, headers=plain_headers, stream=stream)
    assert "x-rass-distance" not in seen
    assert "7.65" not in str(seen) + body.decode()
    _, seen, _ = await proxy.ask(KILL, headers=trusted_headers, stream=stream)
    assert float(seen["x-rass-distance"]) == pytest.approx(-7.65432)


async def test_only_a_key_with_the_right_steers(model, start_proxy, script):
    model.scripts["hello"] = script("hi", steered="steered")
    plain, plain_headers = made("plain")
    trusted, trusted_headers = made("trusted", rights=(Right.CLIENT_STEERING,))
    proxy = await start_proxy(Mode.OFF, keyring=Keyring([plain, trusted]))
    order = {"steer": {"vector": "v", "strength": 1}}
    status, _, body = await proxy.ask("hello", headers=plain_headers, rass=order)
    assert (status, json.loads(body)["error"]["code"]) == (400, "steering_not_permitted")
    status, _, body = await proxy.ask("hello", headers=trusted_headers, rass=order)
    assert json.loads(body)["choices"][0]["message"]["content"] == "steered"


async def test_the_audit_names_the_key(model, start_proxy, script, refusal, tmp_path):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    key, headers = made("team-7")
    path = tmp_path / "audit.jsonl"
    proxy = await start_proxy(keyring=Keyring([key]), audit=Audit(path, include_text=False))
    await proxy.ask(KILL, headers=headers)
    assert json.loads(path.read_text())["key_id"] == "team-7"


async def test_a_key_over_its_minute_is_told_when_to_come_back(model, start_proxy, script):
    model.scripts["hello"] = script("hi")
    key, headers = made(requests_per_minute=1)
    other, other_headers = made("other")
    proxy = await start_proxy(keyring=Keyring([key, other]))
    assert (await proxy.ask("hello", headers=headers))[0] == 200
    status, seen, body = await proxy.ask("hello", headers=headers)
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(seen["retry-after"]) <= 60
    assert seen["retry-after"] in error["message"]
    assert proxy.total("rass_rate_limited_total", limit="requests_per_minute") == 1
    assert (await proxy.ask("hello", headers=other_headers))[0] == 200


async def test_requests_at_once_are_counted_out_however_they_end(model, start_proxy, script, eventually):
    model.scripts["slow"] = script("x")
    model.hold = asyncio.Event()
    key, headers = made(concurrent_requests=1)
    proxy = await start_proxy(keyring=Keyring([key]))
    asking = asyncio.create_task(proxy.ask("slow", headers=headers))
    await model.arrived.wait()
    assert (await proxy.ask("slow", headers=headers))[0] == 429
    asking.cancel()
    await eventually(lambda: proxy.total("rass_requests_total", outcome="client-gone", mode="recover") == 1)
    model.hold.set()
    assert (await proxy.ask("slow", headers=headers))[0] == 200
