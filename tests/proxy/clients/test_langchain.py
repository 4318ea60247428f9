"""LangChain's chat model for OpenAI-compatible servers."""

from __future__ import annotations

from contextlib import AsyncExitStack

import httpx
import pytest


@pytest.fixture
async def closing():
    """Ends what the test opened."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.parametrize("stream", [False, True])
async def test_conversations(need_package, proxy, held, prompts, weather_tool, degrees, stream, closing):
    need_package("langchain_openai")
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    http = await closing.enter_async_context(httpx.AsyncClient())
    chat = ChatOpenAI(
        model="scripted", base_url=f"{proxy.url}/v1", api_key="any", max_retries=0, http_async_client=http
    )

    async def ask(with_model, turns):
        if not stream:
            return await with_model.ainvoke(turns)
        whole = None
        async for chunk in with_model.astream(turns):
            whole = chunk if whole is None else whole + chunk
        return whole

    over_refused, harmful, weather = (HumanMessage(prompt) for prompt in prompts)
    with_tool = chat.bind_tools([weather_tool])
    called = await ask(with_tool, [weather])
    (call,) = called.tool_calls
    answer = await ask(with_tool, [weather, called, ToolMessage(degrees, tool_call_id=call["id"])])
    await held(
        {
            "recovered": (await ask(chat, [over_refused])).content,
            "refused": (await ask(chat, [harmful])).content,
            "tool": call["name"],
            "arguments": call["args"],
            "answer": answer.content,
        }
    )
