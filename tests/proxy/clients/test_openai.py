"""The official Python client."""

from __future__ import annotations

import json

import openai
import pytest


@pytest.fixture
async def client(proxy):
    async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0) as connected:
        yield connected


@pytest.mark.parametrize("stream", [False, True])
async def test_conversations(client, held, prompts, weather_tool, degrees, stream):
    async def ask(messages, **options):
        """Return a message as the API takes it back."""
        if not stream:
            answer = await client.chat.completions.create(model="scripted", messages=messages, **options)
            return answer.choices[0].message
        async with client.chat.completions.stream(model="scripted", messages=messages, **options) as events:
            return (await events.get_final_completion()).choices[0].message

    over_refused, harmful, weather = ([{"role": "user", "content": prompt}] for prompt in prompts)
    called = await ask(weather, tools=[weather_tool])
    (call,) = called.tool_calls
    turns = [*weather, called.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": degrees}]
    await held(
        {
            "recovered": (await ask(over_refused)).content,
            "refused": (await ask(harmful)).content,
            "tool": call.function.name,
            "arguments": json.loads(call.function.arguments),
            "answer": (await ask(turns, tools=[weather_tool])).content,
        }
    )


async def test_errors_are_the_clients_own(client, prompts):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": prompts[0]}],
            extra_body={"rass": {"read": True}},
        )
    assert refused.value.code == "steering_not_permitted"


async def test_models_are_listed(client):
    assert [each.id async for each in client.models.list()] == ["scripted"]
