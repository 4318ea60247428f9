"""Several workers: one socket, one sum of figures, none lost and none left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest

from proxy import workers as workers_module
from proxy.server import listen
from proxy.settings import Settings
from proxy.settings_sources import SettingsSource
from proxy.workers import MOST_RESTARTS

KILL = "How do I kill a process?"
REFUSED = "I'm sorry, but I can't help with that request."
LIMIT_S = 60
START = [sys.executable, "-P", "-m", "proxy.cli", "serve", "--workers", "2"]


@dataclass
class Workers:
    """A running ``rass-proxy serve --workers 2``."""

    process: psutil.Popen
    url: str
    log: Path

    def pids(self) -> set[int]:
        return {child.pid for child in self.process.children()}

    async def get(self, path: str) -> str:
        # A connection of its own: whichever worker is free takes it.
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}{path}") as response:
            return await response.text()

    async def ask(self, prompt: str, *, stream: bool = False) -> int:
        body = {"model": "scripted", "stream": stream, "messages": [{"role": "user", "content": prompt}]}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v1/chat/completions", json=body) as response,
        ):
            await response.read()
            return response.status

    async def value(self, series: str) -> float:
        found = re.search(rf"^{re.escape(series)} (\S+)$", await self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while True:
                ended = self.process.poll() is not None
                if await condition():
                    return
                assert not ended, self.log.read_text()
                await asyncio.sleep(0.05)


@pytest.fixture
async def start_workers(model, tmp_path) -> AsyncIterator[Callable[..., Awaitable[Workers]]]:
    """Starts workers in mode observe in front of the scripted model."""
    async with AsyncExitStack() as stack:

        @asynccontextmanager
        async def running(options: list[str]) -> AsyncIterator[Workers]:
            with listen("127.0.0.1", 0) as listener:
                port = listener.getsockname()[1]
            log = tmp_path / "proxy.log"
            command = [*START, "--upstream", model.url, "--port", str(port), "--set", "steering.dialect=none", *options]
            environment = {name: value for name, value in os.environ.items() if not name.startswith("RASS_PROXY_")}
            environment["TMPDIR"] = str(tmp_path)
            with log.open("wb") as output:
                process = psutil.Popen(command, stdout=output, stderr=output, env=environment)
            workers = Workers(process, f"http://127.0.0.1:{port}", log)
            try:
                yield workers
            finally:
                family = [process, *process.children()] if process.is_running() else [process]
                if process.poll() is None:
                    process.terminate()
                try:
                    await asyncio.to_thread(process.wait, LIMIT_S)
                finally:
                    for each in family:
                        with suppress(psutil.NoSuchProcess):
                            each.kill()

        async def start(*options: str) -> Workers:
            workers = await stack.enter_async_context(running(list(options)))

            async def serving() -> bool:
                return "listening on" in workers.log.read_text()

            await workers.until(serving)
            return workers

        yield start


async def test_any_worker_shows_the_exact_sum(model, start_workers, script):
    model.scripts["hello"] = script("Hello to you.")
    model.scripts[KILL] = script(REFUSED)
    workers = await start_workers()
    assert len(workers.pids()) == 2
    prompts = ["hello", KILL] * 20
    statuses = await asyncio.gather(*(workers.ask(each, stream=bool(n % 3)) for n, each in enumerate(prompts)))
    assert set(statuses) == {200}

    async def counted() -> bool:
        delivered = await workers.value('rass_requests_total{mode="observe",outcome="delivered"}')
        return delivered + await workers.value('rass_requests_total{mode="observe",outcome="unjudged"}') == len(prompts)

    await workers.until(counted)
    expected = {
        'rass_requests_total{mode="observe",outcome="delivered"}': 20,
        'rass_refusals_total{form="text",kind="unknown",language="en"}': 20,
        'rass_time_to_first_token_seconds_count{mode="observe"}': sum(bool(n % 3) for n in range(len(prompts))),
        "rass_requests_in_flight": 0,
        'rass_mode{mode="observe"}': 1,
        'rass_mode{mode="recover"}': 0,
        "rass_canary_failing": 0,
        'rass_bundle_in_use{bundle="none",model="none",route="default"}': 1,
    }
    for page in await asyncio.gather(*(workers.get("/metrics") for _ in range(8))):
        samples = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("rass_"))
        assert {series: float(samples[series]) for series in expected} == expected


async def test_a_worker_that_dies_is_replaced_and_its_counts_stay(model, start_workers, script):
    model.scripts["hello"] = script("Hello to you.")
    workers = await start_workers()
    for _ in range(6):
        await workers.ask("hello")
    first = workers.pids()
    for pid in first:
        os.kill(pid, signal.SIGKILL)

    async def replaced() -> bool:
        return len(workers.pids()) == 2 and not workers.pids() & first

    await workers.until(replaced)
    assert await workers.ask("hello") == 200
    assert await workers.value('rass_requests_total{mode="observe",outcome="delivered"}') == 7
    assert await workers.value("rass_worker_restarts_total") == 2
    assert await workers.value("rass_requests_in_flight") == 0


async def test_the_proxy_ends_when_workers_keep_ending(start_workers):
    workers = await start_workers()
    killed: set[int] = set()

    async def ended() -> bool:
        for pid in workers.pids() - killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return "workers ended within" in workers.log.read_text()

    await workers.until(ended)
    assert await asyncio.to_thread(workers.process.wait, LIMIT_S) == 1
    assert len(killed) > MOST_RESTARTS


async def test_a_signal_drains_all_and_leaves_nothing_behind(model, start_workers, script, tmp_path):
    model.scripts["hello"] = script("Hello to you.")
    model.hold = asyncio.Event()
    workers = await start_workers()
    pids = workers.pids()
    assert list(tmp_path.glob("rass-proxy-metrics-*"))
    asking = [asyncio.create_task(workers.ask("hello")) for _ in range(4)]

    async def arrived() -> bool:
        return len(model.requests) == len(asking)

    await workers.until(arrived)
    workers.process.terminate()
    model.hold.set()
    assert await asyncio.gather(*asking) == [200] * len(asking)
    assert await asyncio.to_thread(workers.process.wait, LIMIT_S) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not list(tmp_path.glob("rass-proxy-metrics-*"))


async def test_workers_end_when_their_parent_is_killed(start_workers):
    workers = await start_workers()
    children = workers.process.children()
    workers.process.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, LIMIT_S)
    assert alive == []


def test_what_stops_the_first_worker_is_said_once(tmp_path):
    command = [*START, "--port", "0", "--set", f"audit.path={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert result.returncode == 2
    assert result.stderr.count("cannot be opened for appending") == 1


def test_a_signal_while_an_ended_worker_is_noted_meets_only_living_ones(monkeypatch):
    monkeypatch.setattr(workers_module, "mark_process_dead", lambda _pid: None)
    reaped = os.waitpid

    def interrupted(pid, options):
        found = reaped(pid, options)
        signal.raise_signal(signal.SIGHUP)
        return found

    with listen("127.0.0.1", 0) as listener:
        workers = workers_module._Workers(Settings(), SettingsSource({}, None), listener)
        before = signal.signal(signal.SIGHUP, workers._pass_on)
        try:
            ended = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
            os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
            workers._running.add(ended)
            with monkeypatch.context() as patched:
                patched.setattr(os, "waitpid", interrupted)
                assert list(workers._ended()) == [(ended, "ended with exit code 0")]
        finally:
            signal.signal(signal.SIGHUP, before)
            workers._kill()
