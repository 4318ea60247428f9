"""The clients that people use from Node: OpenAI's own and the Vercel AI SDK, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "node"
LIMIT_S = 120.0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", ["openai", "ai-sdk"])
async def test_conversations(need, proxy, held, prompts, weather_tool, degrees, client, stream):
    node = shutil.which("node")
    need(node is not None, "node is not installed")
    need((FOLDER / "node_modules").is_dir(), "the Node clients are not installed (make client-packages)")
    order = {"url": proxy.url, "stream": stream, "prompts": prompts, "tool": weather_tool, "degrees": degrees}
    process = await asyncio.create_subprocess_exec(
        node,
        FOLDER / f"{client}.mjs",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # An address that somebody's environment names must not take the place of the proxy's.
        env={name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")},
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            said, complained = await process.communicate(json.dumps(order).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complained.decode()
    await held(json.loads(said))
