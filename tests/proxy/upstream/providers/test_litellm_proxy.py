"""A whole proxy with a provider behind litellm on a route of its own, next to the fast path."""

from __future__ import annotations

import importlib.util
import json

import aiohttp
import pytest

from proxy.app import create_app
from proxy.dependencies import build_dependencies
from proxy.server import listen, running_app, url_of
from proxy.settings import Settings

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    # Not importorskip: litellm fetches a price list when it is imported, unless the proxy imports it.
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None, reason="litellm is not installed (requirements-litellm.lock)"
    ),
]


async def test_refusals_of_a_translated_provider_are_counted(provider):
    upstream = {"kind": "litellm", "provider": "azure", "provider_url": provider.url, "models": ["gpt-1"]}
    route = {"name": "azure", "models": ["gpt-*"], "upstream": {**upstream, "api_key": "k"}}
    settings = Settings.model_validate({"routes": [route], "default_route": False})
    deps = await build_dependencies(settings)

    def count(name, **labels):
        samples = [sample for family in deps.metrics.registry.collect() for sample in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    with listen("127.0.0.1", 0) as listener:
        async with (
            running_app(create_app(settings, deps), listener, drain_timeout_s=1),
            aiohttp.ClientSession(base_url=url_of(listener)) as session,
        ):

            async def ask(**fields):
                body = {"model": "gpt-1", "messages": [{"role": "user", "content": "hello"}], **fields}
                async with session.post("/v1/chat/completions", json=body) as response:
                    return response.status, response.headers, await response.read()

            async with session.get("/readyz") as response:
                assert (await response.json())["routes"] == {
                    "azure": {"status": "ready", "mode": "observe", "models": ["gpt-1"]}
                }

            message = {"role": "assistant", "content": None, "refusal": "I cannot."}
            provider.body = {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": "gpt-1",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
            status, _, body = await ask()
            assert (status, json.loads(body)["choices"][0]["message"]["refusal"]) == (200, "I cannot.")
            assert count("rass_refusals_total", form="typed") == 1

            provider.status, provider.body = 400, {"error": {"message": "filtered", "code": "content_filter"}}
            for stream in (False, True):
                status, headers, body = await ask(stream=stream)
                assert (status, json.loads(body)["error"]["code"]) == (400, "content_filter")
                assert headers["content-type"] == "application/json"
            assert count("rass_refusals_total", form="filter") == 2
            assert count("rass_route_requests_total", route="azure") == 3
