"""litellm's client, which calls itself a drop-in for OpenAI's."""

from __future__ import annotations

import pytest

# litellm warns about its own use of pydantic and leaves its sessions to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydantic"),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_conversations(need_package, proxy, held_in_openais_form, stream, monkeypatch):
    need_package("mcp")  # litellm's client imports it as soon as a request offers tools, and does not ask for it
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # its price list is fetched otherwise
    import litellm

    async def ask(messages, **options):
        answer = await litellm.acompletion(
            model="openai/scripted",
            api_base=f"{proxy.url}/v1",
            api_key="any",
            messages=messages,
            stream=stream,
            num_retries=0,
            **options,
        )
        if stream:
            answer = litellm.stream_chunk_builder([chunk async for chunk in answer])
        return answer.choices[0].message

    await held_in_openais_form(ask, lambda message: message.model_dump())
