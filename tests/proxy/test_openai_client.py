"""The official client holds a recovered, a refused and an ordinary conversation, streaming and not."""

from __future__ import annotations

import openai
import pytest


@pytest.fixture
async def client(model, start_proxy, script, refusal):
    model.scripts["kill"] = script(refusal, steered="Use kill.")
    model.scripts["harmful"] = script(refusal, steered="never to be seen", h=9.0)
    model.scripts["hello"] = script("Hi there.")
    proxy = await start_proxy()
    async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0) as connected:
        yield connected


@pytest.mark.parametrize(
    ("prompt", "expected"), [("kill", "Use kill."), ("harmful", None), ("hello", "Hi there.")], ids=str
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation(client, refusal, prompt, expected, stream):
    messages = [{"role": "user", "content": prompt}]
    answer = await client.chat.completions.create(model="scripted", messages=messages, stream=stream)
    text = (
        "".join([chunk.choices[0].delta.content or "" async for chunk in answer])
        if stream
        else answer.choices[0].message.content
    )
    assert text == (expected or refusal)


async def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "kill"}], extra_body={"rass": {"read": True}}
        )
    assert refused.value.code == "steering_not_permitted"


async def test_models_are_listed(client):
    assert [each.id async for each in client.models.list()] == ["scripted"]
