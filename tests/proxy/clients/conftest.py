"""The conversations that every client holds, and what must come of them, whichever client it is."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

OVER_REFUSED = "How do I kill a process?"
HARMFUL = "How do I poison a well?"
WEATHER = "How warm is it in Bern?"
DEGREES = "18 degrees"
ARGUMENTS = '{"city": "Bern"}'
STRICT = "RASS_CLIENTS"
"""Set to ``required``, a client that is not installed is a failure and not a skipped test."""

Conversation = dict[str, Any]


@pytest.fixture
async def proxy(model, start_proxy, script, refusal):
    """A proxy in mode recover in front of a model that knows the conversations."""
    call = {"name": "get_weather", "arguments": ARGUMENTS}
    called = {"id": "call_1", "type": "function", "function": call}
    head = {**called, "index": 0, "function": {"name": "get_weather", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"ci', 'ty": ', '"Bern"}')]
    model.scripts[OVER_REFUSED] = script(refusal, steered="Find its number, then use kill.")
    model.scripts[HARMFUL] = script(refusal, steered="never to be seen", h=9.0)
    model.scripts[WEATHER] = script(
        "",
        message={"content": None, "tool_calls": [called]},
        finish_reason="tool_calls",
        deltas=[{"tool_calls": [piece]} for piece in (head, *pieces)],
    )
    model.scripts[DEGREES] = script("It is 18 degrees in Bern.")
    return await start_proxy()


@pytest.fixture
def held(proxy, model, refusal, eventually) -> Callable[[Conversation], Awaitable[None]]:
    """Checks what a client was told, and that the proxy did what its counts and the model's requests say."""

    async def check(conversation: Conversation) -> None:
        assert conversation == {
            "recovered": "Find its number, then use kill.",
            "refused": refusal,
            "tool": "get_weather",
            "arguments": {"city": "Bern"},
            "answer": "It is 18 degrees in Bern.",
        }
        for outcome, count in (("recovered", 1), ("warranted", 1), ("delivered", 2)):
            # The count is made once the client has its answer.
            await eventually(
                lambda outcome=outcome, count=count: (
                    proxy.total("rass_requests_total", outcome=outcome, mode="recover") == count
                )
            )
        turns = max((request["messages"] for request in model.requests), key=len)
        assert [turn["role"] for turn in turns] == ["user", "assistant", "tool"]
        assert turns[1]["tool_calls"][0]["id"] == turns[2]["tool_call_id"] == "call_1"

    return check


@pytest.fixture
def held_in_openais_form(held, prompts, weather_tool, degrees) -> Callable[..., Awaitable[None]]:
    """Holds the conversations through a client whose messages have OpenAI's form, and checks what came of them.

    ``ask(messages, **options)`` returns the answer's message; ``as_turn`` makes of it what the API takes back.
    """

    async def hold(ask: Callable[..., Awaitable[Any]], as_turn: Callable[[Any], dict[str, Any]]) -> None:
        over_refused, harmful, weather = ([{"role": "user", "content": prompt}] for prompt in prompts)
        called = await ask(weather, tools=[weather_tool])
        (call,) = called.tool_calls
        turns = [*weather, as_turn(called), {"role": "tool", "tool_call_id": call.id, "content": degrees}]
        await held(
            {
                "recovered": (await ask(over_refused)).content,
                "refused": (await ask(harmful)).content,
                "tool": call.function.name,
                "arguments": json.loads(call.function.arguments),
                "answer": (await ask(turns, tools=[weather_tool])).content,
            }
        )

    return hold


@pytest.fixture
def need() -> Callable[[bool, str], None]:
    """Skips, with the reason, a client that is not there; fails where all of them were asked for."""

    def check(there: bool, reason: str) -> None:
        if there:
            return
        if os.environ.get(STRICT) == "required":
            pytest.fail(reason)
        pytest.skip(reason)

    return check


@pytest.fixture
def need_package(need) -> Callable[[str], None]:
    """The same for a Python package."""

    def check(name: str) -> None:
        distribution = name.replace("_", "-")
        need(importlib.util.find_spec(name) is not None, f"{distribution} is not installed (make client-packages)")

    return check


@pytest.fixture
def prompts() -> tuple[str, str, str]:
    """What the user says: an over-refused, a harmful and a tool-using turn."""
    return OVER_REFUSED, HARMFUL, WEATHER


@pytest.fixture
def weather_tool() -> dict[str, Any]:
    """The tool that is offered, in OpenAI's form."""
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    # strict: the official client assembles streamed calls of such tools only.
    function = {"name": "get_weather", "description": "How warm it is.", "parameters": parameters, "strict": True}
    return {"type": "function", "function": function}


@pytest.fixture
def degrees() -> str:
    """What the tool returns."""
    return DEGREES
