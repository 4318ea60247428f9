"""Paths, bad input, and errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from proxy.exchange import Mode
from proxy.server import listen, url_of


async def post(proxy, body, headers=None):
    url = f"{proxy.url}/v1/chat/completions"
    async with proxy.session.post(url, data=body, headers=headers) as response:
        return response.status, json.loads(await response.read())["error"]


async def healthy(proxy):
    async with proxy.session.get(f"{proxy.url}/healthz") as response:
        return response.status == 200


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"no json", 400, "invalid_json"),
        (b"[1]", 400, "invalid_json"),
        (b'{"rass": {"read": true}}', 400, "steering_not_permitted"),
        (b'{"vllm_xargs": {}}', 400, "steering_not_permitted"),
        (b"x" * 2000, 413, "request_too_large"),
    ],
)
async def test_bad_input_never_reaches_the_upstream(model, start_proxy, mode, body, status, code):
    proxy = await start_proxy(mode, limits={"max_request_bytes": 1000})
    seen, error = await post(proxy, body)
    assert (seen, error["code"]) == (status, code)
    assert error["type"] == "invalid_request_error"
    assert model.requests == []
    assert await healthy(proxy)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_compressed_body_is_refused_as_one(model, start_proxy, path):
    proxy = await start_proxy()
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    body = gzip.compress(b'{"model": "m", "messages": [], "input": "a"}')
    async with proxy.session.post(f"{proxy.url}{path}", data=body, headers=headers) as response:
        assert response.status == 415
        error = (await response.json())["error"]
    assert error["code"] == "unsupported_body"
    assert "'gzip'" in error["message"]
    assert model.requests == []


async def test_an_upstream_that_is_not_there(start_proxy):
    with listen("127.0.0.1", 0) as nobody:
        address = url_of(nobody)  # bound, not listening: refused at once
        proxy = await start_proxy(url=address, upstream={"retries": 0})
        status, error = await post(proxy, b'{"model": "m", "messages": []}')
        assert (status, error["code"]) == (502, "upstream_unreachable")
        assert address in error["message"]
        assert proxy.total("rass_upstream_errors_total", code="upstream_unreachable") == 1
        async with proxy.session.get(f"{proxy.url}/readyz") as response:
            assert response.status == 503
            assert address in (await response.json())["reason"]
        assert await healthy(proxy)


async def test_an_upstream_that_is_late(model, start_proxy, script):
    model.scripts["slow"] = script("x")
    model.hold = asyncio.Event()
    proxy = await start_proxy(upstream={"url": model.url, "first_byte_timeout_s": 0.05})
    status, _, body = await proxy.ask("slow")
    assert status == 504
    assert json.loads(body)["error"]["code"] == "upstream_timeout"


async def test_unlisted_paths_are_not_relayed(start_proxy):
    proxy = await start_proxy()
    for path in ("/v1/rass/read", "/v1/files", "/", "/v1/chat/completions/x"):
        async with proxy.session.post(f"{proxy.url}{path}", json={}) as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "path_not_relayed"
    async with proxy.session.get(f"{proxy.url}/v1/chat/completions") as response:
        assert response.status == 404


async def test_models_are_relayed(model, start_proxy):
    proxy = await start_proxy()
    async with proxy.session.get(f"{model.url}/v1/models") as raw:
        expected = await raw.read()
    async with proxy.session.get(f"{proxy.url}/v1/models") as response:
        assert await response.read() == expected
        assert response.headers["x-request-id"].startswith("req-")


async def test_ready_says_what_is_served(start_proxy):
    proxy = await start_proxy()
    async with proxy.session.get(f"{proxy.url}/readyz") as response:
        assert response.status == 200
        assert await response.json() == {"status": "ready", "mode": "recover", "models": ["scripted"]}


async def test_the_clients_request_id_comes_back(model, start_proxy, script):
    model.scripts["hello"] = script("hi")
    proxy = await start_proxy()
    _, headers, _ = await proxy.ask("hello", headers={"x-request-id": "mine"})
    assert headers["x-request-id"] == "mine"
    _, headers, _ = await proxy.ask("hello", headers={"x-request-id": "not a plain id!"})
    assert headers["x-request-id"].startswith("req-")


async def test_steering_fields_pass_with_the_right(model, start_proxy, script):
    model.scripts["hello"] = script("hi", steered="steered")
    proxy = await start_proxy(Mode.OFF, rights={"allow_client_steering": True})
    _, _, body = await proxy.ask("hello", rass={"steer": {"vector": "v", "strength": 1}})
    assert json.loads(body)["choices"][0]["message"]["content"] == "steered"


class BrokenLanguage:
    def __call__(self, text):
        raise RuntimeError("broken")


async def test_a_failing_language_detector_is_counted(model, start_proxy, script, refusal):
    model.scripts["hello"] = script(refusal)
    proxy = await start_proxy(detectors={"language": BrokenLanguage()})
    status, _, _ = await proxy.ask("hello")
    assert status == 200
    assert proxy.total("rass_detector_failures_total", detector="language") == 1
