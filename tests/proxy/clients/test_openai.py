"""The official Python client."""

from __future__ import annotations

import openai
import pytest


@pytest.fixture
async def client(proxy):
    async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0) as connected:
        yield connected


@pytest.mark.parametrize("stream", [False, True])
async def test_conversations(client, held_in_openais_form, stream):
    async def ask(messages, **options):
        """Return a message as the API takes it back."""
        if not stream:
            answer = await client.chat.completions.create(model="scripted", messages=messages, **options)
            return answer.choices[0].message
        async with client.chat.completions.stream(model="scripted", messages=messages, **options) as events:
            return (await events.get_final_completion()).choices[0].message

    await held_in_openais_form(ask, lambda message: message.to_dict())


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
