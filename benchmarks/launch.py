"""Starts servers as processes of their own, the way a user would, and stops them again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from benchmarks.errors import TargetError

__all__ = ["clean_environment", "free_port", "proxy_command", "running_process", "running_proxy"]

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 10.0
_POLL_S = 0.1


def free_port(host: str) -> int:
    """Return a port of ``host`` that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """Return the environment without the proxy's settings.

    Only the options decide how the proxy runs: the settings of whoever measures would change what is measured.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("RASS_PROXY_")}


def proxy_command(upstream: str, host: str, port: int, options: Sequence[str]) -> list[str]:
    """Return the command line of ``rass-proxy serve`` for this interpreter."""
    # -P: a folder called proxy in the working directory is not ours.
    command = [sys.executable, "-P", "-m", "proxy.cli", "serve", "--upstream", upstream]
    return [*command, "--host", host, "--port", str(port), *options]


@asynccontextmanager
async def running_proxy(upstream: str, host: str, options: Sequence[str]) -> AsyncIterator[str]:
    """Run ``rass-proxy serve`` in front of ``upstream``; yields its base URL once it is ready; as `running_process`."""
    port = free_port(host)
    url = f"http://{host}:{port}"
    async with running_process("the proxy", proxy_command(upstream, host, port, options), f"{url}/readyz"):
        yield url


@asynccontextmanager
async def running_process(
    name: str,
    command: Sequence[str],
    ready_at: str,
    *,
    environment: Mapping[str, str] | None = None,
    cores: Collection[int] = (),
    start_limit_s: float = _START_LIMIT_S,
) -> AsyncIterator[int]:
    """Run a server; yields its process id once ``ready_at`` answers 200. ``cores`` bind it and all that it starts.

    Raises TargetError with the end of its output when it exits or is not ready within ``start_limit_s``. The process
    and its children are gone when the context is left, whatever happened inside.
    """
    with tempfile.TemporaryDirectory(prefix="rass-bench-") as folder:
        log = Path(folder) / "output.log"
        with log.open("wb") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=clean_environment() if environment is None else environment,
                    start_new_session=True,  # a group of its own: what it started ends with it
                )
            except OSError as error:
                raise TargetError(f"{name} cannot be started: {error}") from error
        try:
            if cores:
                os.sched_setaffinity(process.pid, cores)
            await _ready(name, process, ready_at, log, start_limit_s)
            yield process.pid
        finally:
            await _stop(process)


async def _ready(name: str, process: asyncio.subprocess.Process, url: str, log: Path, limit_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while loop.time() < deadline:
            if process.returncode is not None:
                raise TargetError(f"{name} ended at its start with exit code {process.returncode}: {_tail(log)}")
            if await _answers(session, url):
                return
            await asyncio.sleep(_POLL_S)
    raise TargetError(f"{name} was not ready at {url} within {limit_s:.0f} s: {_tail(log)}")


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        # Not listening yet: the caller polls within its limit.
        return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):  # it did not listen: it is killed below
            await asyncio.wait_for(process.wait(), _STOP_LIMIT_S)
    with suppress(ProcessLookupError):  # usually nobody of its group is left
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    return text[-1500:] if text else "it printed nothing"
