"""A proxy that chooses between two real llama.cpp servers: what it recovers is what the steered one says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
import torch

from detectors.refusal import TextRefusalDetector
from detectors.verdict import BoundaryReading, HarmVerdict, Message, Zone
from proxy.app import create_app
from proxy.canary import CanaryResult
from proxy.canary_watch import build_canary
from proxy.dependencies import Dependencies
from proxy.metrics import Metrics
from proxy.server import listen, running_app, url_of
from proxy.settings import Settings
from proxy.signals import Detectors
from proxy.steering.choice import choose_dialect, expressed_plan
from proxy.upstream.http import HttpUpstream
from rass.identity import find_model
from rass.model import load_model
from rass.steering import bundle_rows

PROMPT = "How do I kill a Python process?"
TOKENS = 10


@dataclass
class AllBenign:
    """What stands in for the boundary and the harm detector: neither is what is tried here."""

    async def read(self, messages, *, model, language):
        return BoundaryReading(Zone.BENIGN, None, None, "given")

    async def judge(self, messages, answer, *, model, language):
        return HarmVerdict(False, "given")


@pytest.fixture
async def build(servers, additive_bundle) -> AsyncIterator:
    """Builds settings and dependencies; ``pair_url`` may be another server than the steered one."""
    made: list[Dependencies] = []
    plain, steered = servers
    [planned] = additive_bundle.manifest.steering.by_language.values()

    def make(pair_url: str = steered) -> tuple[Settings, Dependencies]:
        steering = {
            "dialect": "pair",
            "pair_url": pair_url,
            "pair_vector": planned.vector,
            "pair_strength": planned.benign,
        }
        settings = Settings.model_validate({"mode": "recover", "upstream": {"url": plain}, "steering": steering})
        metrics = Metrics()
        dialect = choose_dialect(settings, additive_bundle)
        refusal = TextRefusalDetector()
        deps = Dependencies(
            upstream=HttpUpstream(settings.upstream, metrics),
            pair=HttpUpstream(settings.upstream.model_copy(update={"url": pair_url}), metrics),
            metrics=metrics,
            detectors=Detectors(
                refusal=refusal,
                head=refusal.stream,
                language=lambda text: "en",
                boundary=AllBenign(),
                answer_harm=AllBenign(),
            ),
            dialect=dialect,
            plan=expressed_plan(additive_bundle, dialect),
            bundle=additive_bundle,
        )
        made.append(deps)
        return settings, deps

    yield make
    for deps in made:
        await deps.close()
        assert deps.pair is not None
        await deps.pair.close()


async def ask(url: str, **fields) -> tuple[str, dict[str, str]]:
    body = {
        "model": "rass-reference",
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "max_tokens": TOKENS,
        **fields,
    }
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        answer = json.loads(await response.read())
        return answer["choices"][0]["message"]["content"].strip(), dict(response.headers)


def expected(additive_bundle, *, steered: bool) -> str:
    """The same model, steered the same way, in transformers."""
    model = load_model(find_model("reference"), device="cpu")
    steering = additive_bundle.steering("en", Zone.BENIGN)
    rows = bundle_rows(additive_bundle, [steering]) if steered else None
    with torch.inference_mode():
        [text] = model.generate(model.render([[Message("user", PROMPT)]]), max_new_tokens=TOKENS, steering=rows)
    return text


@pytest.mark.parametrize("steered", [False, True])
async def test_llama_cpp_says_what_transformers_says(servers, additive_bundle, steered):
    text, _ = await ask(servers[steered])
    assert text == expected(additive_bundle, steered=steered)


async def test_the_proxy_recovers_with_the_steered_servers_answer(servers, build):
    plain, steered = [(await ask(url))[0] for url in servers]
    assert plain != steered
    settings, deps = build()
    with listen("127.0.0.1", 0) as listener:
        async with running_app(create_app(settings, deps), listener, drain_timeout_s=1):
            text, headers = await ask(url_of(listener))
            assert headers["x-rass-action"] == "recovered"
            assert text == steered


async def test_the_canary_passes_and_sees_a_second_server_without_the_vector(servers, build):
    canary = build_canary(*build())
    assert canary is not None
    report = await canary.canary_passes()
    assert report.passed, report
    unsteered = build_canary(*build(pair_url=servers[0]))
    assert unsteered is not None
    assert (await unsteered.canary_passes()).result is CanaryResult.NOT_STEERED
