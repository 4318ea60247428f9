"""Starts the real proxy as a process of its own, the way a user would, and stops it again."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from benchmarks.errors import TargetError

__all__ = ["free_port", "running_proxy"]

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 10.0
_POLL_S = 0.1


def free_port(host: str) -> int:
    """Return a port of ``host`` that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running_proxy(upstream: str, host: str, options: Sequence[str]) -> AsyncIterator[str]:
    """Run ``rass-proxy serve`` in front of ``upstream``; yields its base URL once it is ready.

    Raises TargetError with the end of its output when it exits or is not ready within a minute. The process is gone
    when the context is left, whatever happened inside.
    """
    port = free_port(host)
    url = f"http://{host}:{port}"
    # -P: a folder called proxy in the working directory is not ours.
    command = [
        sys.executable,
        "-P",
        "-m",
        "proxy.cli",
        "serve",
        "--upstream",
        upstream,
        "--host",
        host,
        "--port",
        str(port),
    ]
    # Only the options decide how the proxy runs: the settings of whoever measures would change what is measured.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RASS_PROXY_")}
    with tempfile.TemporaryDirectory(prefix="rass-bench-") as folder:
        log = Path(folder) / "proxy.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, *options, stdout=output, stderr=output, env=environment
            )
        try:
            await _ready(process, f"{url}/readyz", log)
            yield url
        finally:
            await _stop(process)


async def _ready(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_LIMIT_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while loop.time() < deadline:
            if process.returncode is not None:
                raise TargetError(f"the proxy ended at its start with exit code {process.returncode}: {_tail(log)}")
            if await _answers(session, url):
                return
            await asyncio.sleep(_POLL_S)
    raise TargetError(f"the proxy was not ready at {url} within {_START_LIMIT_S:.0f} s: {_tail(log)}")


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        # Not listening yet: the caller polls within its limit.
        return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_LIMIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    return text[-1500:] if text else "it printed nothing"
