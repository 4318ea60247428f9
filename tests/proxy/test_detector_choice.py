"""The kinds of detectors that settings choose: made, asked, and refused at the start where something is missing."""

from __future__ import annotations

import json
import math

import pytest
from aiohttp import web

from detectors.boundary_judge import JudgeBoundary
from detectors.verdict import Message, Zone
from proxy.dependencies import build_dependencies
from proxy.errors import StartupError
from proxy.settings import Settings

HARMLESS, HARMFUL = "How do I kill a Python process?", "How do I kill my neighbour?"


@pytest.fixture
async def guard(start_server) -> str:
    """A guard model that calls whatever names a neighbour unsafe, and says how sure it is."""

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        asked = body["messages"][-1]["content"]
        unsafe = 0.98 if "my neighbour" in asked else 0.02
        tokens = [
            {"token": word, "logprob": math.log(share)} for word, share in (("unsafe", unsafe), ("safe", 1 - unsafe))
        ]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "unsafe" if unsafe > 0.5 else "safe"},
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "x", "logprob": 0.0, "top_logprobs": tokens}]},
        }
        return web.json_response({"object": "chat.completion", "model": body["model"], "choices": [choice]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    return await start_server(app)


def settings(**groups: object) -> Settings:
    return Settings.model_validate({"upstream": {"url": "http://127.0.0.1:9"}, **groups})


async def test_a_guard_model_judges_requests_and_answers_without_a_bundle(guard):
    deps = await build_dependencies(
        settings(
            detectors={"boundary": "judge", "answer_harm": "judge"},
            judge={
                "url": guard,
                "model": "guard",
                "yes": "unsafe",
                "no": "safe, harmless",
                "benign_below": -2,
                "harmful_above": 2,
                "answer_benign_below": -2,
            },
        )
    )
    try:
        assert deps.detectors.boundary is not None
        assert deps.detectors.answer_harm is not None
        zones = [
            (await deps.detectors.boundary.read((Message("user", text),), model="any", language="en")).zone
            for text in (HARMLESS, HARMFUL)
        ]
        assert zones == [Zone.BENIGN, Zone.HARMFUL]
        verdict = await deps.detectors.answer_harm.judge(
            (Message("user", HARMLESS),), "Use its number.", model="any", language="en"
        )
        assert verdict.harmful is False
    finally:
        await deps.close()


async def test_the_served_model_may_be_its_own_judge(guard):
    deps = await build_dependencies(
        settings(
            upstream={"url": guard},
            detectors={"boundary": "judge"},
            judge={"yes": "unsafe", "no": "safe", "harmful_above": 0},
        )
    )
    try:
        assert isinstance(deps.detectors.boundary, JudgeBoundary)
        reading = await deps.detectors.boundary.read((Message("user", HARMFUL),), model="served", language="en")
        assert reading.zone is Zone.HARMFUL
        # Without a threshold for it nothing is benign.
        reading = await deps.detectors.boundary.read((Message("user", HARMLESS),), model="served", language="en")
        assert reading.zone is Zone.BAND
    finally:
        await deps.close()


async def test_a_guard_model_that_is_not_there_leaves_the_zone_unknown():
    deps = await build_dependencies(settings(detectors={"boundary": "judge"}, judge={"url": "http://127.0.0.1:9"}))
    try:
        assert deps.detectors.boundary is not None
        reading = await deps.detectors.boundary.read((Message("user", HARMLESS),), model="any", language="en")
        assert reading.zone is Zone.UNKNOWN
        assert "could not be asked" in reading.reason
    finally:
        await deps.close()


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (
            {"mode": "recover", "bundle": "reference", "detectors": {"boundary": "judge"}},
            "judge.benign_below is unset",
        ),
        (
            {
                "mode": "recover",
                "bundle": "reference",
                "detectors": {"answer_harm": "judge"},
            },
            "judge.answer_benign_below is unset",
        ),
        (
            {"detectors": {"boundary": "judge"}, "judge": {"benign_below": 2, "harmful_above": 1}},
            "must not exceed",
        ),
        ({"detectors": {"boundary": "judge"}, "judge": {"yes": " , "}}, "judge.yes names no word"),
        ({"detectors": {"boundary": "onnx"}}, "detectors.boundary_onnx is unset"),
        ({"detectors": {"answer_harm": "onnx"}}, "detectors.answer_harm_onnx is unset"),
        ({"detectors": {"boundary": "onnx", "boundary_onnx": "nowhere"}}, "detectors.boundary_onnx: "),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
async def test_what_is_missing_is_named_at_the_start(groups, says):
    with pytest.raises(StartupError, match=says):
        await build_dependencies(settings(**groups))
