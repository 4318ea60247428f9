"""A served model that answers from scripts, and Prometheus scraping a real proxy process in front of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from detectors.bundle import load
from proxy.dependencies import reference_bundle
from proxy.server import listen

DEPLOY = Path(__file__).parents[2] / "deploy"
REQUIRE = "RASS_REQUIRE_PROMETHEUS"
LIMIT_S = 60.0
POLL_S = 0.1

ServerOf = Callable[[web.Application], AbstractAsyncContextManager[str]]

REFUSAL = "I'm sorry, but I can't help with that request."
ANSWER = "Use the kill command with the number of the process. Look it up with ps first, then check that it has ended."


@dataclass(frozen=True)
class Script:
    """What the model says to one prompt; ``read`` and ``answer`` are coordinates (``None``: reading them fails)."""

    text: str = REFUSAL
    steered: str = ANSWER
    read: float | None = -20.0
    answer: float = -20.0
    message: Mapping[str, object] | None = None
    finish_reason: str = "stop"
    ends: str = ""
    """``cut``: the connection is closed instead of an answer. ``hang``: nothing comes. ``slow``: attempts hang."""


OVER = Script()
SCRIPTS = {
    "How do I kill a process on Linux?": OVER,
    "¿Cómo puedo matar un proceso en Linux desde la terminal?": replace(
        OVER, text="Lo siento, pero no puedo ayudar con esa solicitud."
    ),
    "How do I open a file in this editor?": Script(text=ANSWER),
    "This answer will turn out harmful, so how do I do it?": replace(OVER, answer=20.0),
    "This will be refused again, whatever is tried.": replace(OVER, steered=REFUSAL),
    "The attempt at this takes too long to wait for.": replace(OVER, ends="slow"),
    "This is the request that lies on the harmful side.": replace(OVER, read=20.0),
    "This is the request that lies in the band between.": replace(OVER, read=-2.0),
    "Nobody can read where this request lies today.": replace(OVER, read=None),
    "This is refused by type and not in words.": Script(text="", message={"refusal": "No."}),
    "This is stopped by the filter of the provider.": Script(text="", finish_reason="content_filter"),
    "The connection ends before this is answered.": Script(ends="cut"),
    "The client leaves before this is answered.": Script(ends="hang"),
}


class ScriptedModel:
    """An OpenAI-compatible server in the wire of ``rass serve-model``, with the reference bundle loaded."""

    def __init__(self) -> None:
        self._bundle = load(reference_bundle())
        self._model = self._bundle.manifest.model

    @property
    def name(self) -> str:
        return self._model.id

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_post("/v1/rass/read", self.read)
        app.router.add_get("/v1/models", self.models)
        return app

    async def models(self, _request: web.Request) -> web.Response:
        report = {
            "revision": self._model.revision,
            "hidden_size": self._model.hidden_size,
            "num_layers": self._model.num_layers,
            "bundle": self._bundle.digest,
        }
        return web.json_response({"object": "list", "data": [{"id": self.name, "rass": report}]})

    async def read(self, request: web.Request) -> web.Response:
        turns = (await request.json())["messages"]
        script = SCRIPTS[next(turn["content"] for turn in turns if turn["role"] == "user")]
        if script.read is None:
            return web.json_response({"error": {"message": "no"}}, status=500)
        answer = script.answer if turns[-1]["role"] == "assistant" else None
        return web.json_response({"h": script.read, "rho": 1.0, "answer_h": answer, "bundle": self._bundle.digest})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        script = SCRIPTS.get(body["messages"][-1]["content"])
        if script is None:
            return web.json_response({"error": {"message": "no such script"}}, status=404)
        steered = "rass" in body
        if script.ends == "hang" or (script.ends == "slow" and steered):
            await asyncio.Event().wait()
        if script.ends == "cut":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        message = {"role": "assistant", "content": script.steered if steered else script.text, **(script.message or {})}
        payload: dict[str, Any] = {"id": "c", "model": self.name, "choices": [{"index": 0}]}
        if steered:
            payload["rass"] = {"steered": True}
        choice = payload["choices"][0]
        choice["finish_reason"] = script.finish_reason
        if not body.get("stream"):
            choice["message"] = message
            return web.json_response(payload)
        choice["delta"] = message
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"data: {json.dumps(payload)}\n\ndata: [DONE]\n\n".encode())
        return response


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """Return the ``data`` of one API call; a query that does not parse is an ``AssertionError`` with its reason."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=LIMIT_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def values(self, query: str) -> list[float]:
        """Return the values of an instant query, one for each series."""
        return [float(series["value"][1]) for series in self.get("query", query=query)["result"]]

    async def finds(self, query: str) -> None:
        """Wait, within a bound, until a query finds something; what else runs in the event loop goes on."""
        await asyncio.to_thread(eventually, lambda: self.values(query), query)


@contextmanager
def running(command: list[str], log: Path, ready: str) -> Iterator[None]:
    """Run a program until the context is left; enter it once the address ``ready`` answers 200."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RASS_PROXY_")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        eventually(lambda: _answers(ready, process, log), f"{ready} answers; {log.name} says why not")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False  # not there yet: the caller asks again, within its limit


def eventually(condition: Any, what: str) -> None:
    """Wait, within a bound, until a condition holds."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S:g} s: {what}"
        time.sleep(POLL_S)


def free_port() -> int:
    with listen("127.0.0.1", 0) as listener:
        port: int = listener.getsockname()[1]
        return port


async def send_traffic(proxy: str, model: str) -> int:
    """Send every script once, whole and streamed, and what else makes an outcome; return how many requests it was."""
    count = 0
    async with aiohttp.ClientSession() as session:

        async def ask(prompt: str, *, mode: str = "recover", timeout_s: float = LIMIT_S, stream: bool = False) -> None:
            nonlocal count
            count += 1
            body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": prompt}]}
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            address = f"{proxy}/v1/chat/completions"
            async with session.post(address, json=body, headers={"x-rass-mode": mode}, timeout=timeout) as response:
                await response.read()

        for prompt, script in SCRIPTS.items():
            for stream in (False, True):
                if script.ends == "hang":
                    with pytest.raises(TimeoutError):
                        await ask(prompt, stream=stream, timeout_s=1.0)  # it must have reached the proxy by then
                else:
                    await ask(prompt, stream=stream)
        for mode in ("off", "observe"):
            for stream in (False, True):
                await ask(next(iter(SCRIPTS)), mode=mode, stream=stream)
        await ask("no script has this")
    return count


def config(folder: Path, proxy: str, model: str) -> Path:
    """Write the shipped configuration with the addresses of this test and intervals short enough for it."""
    shipped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    shipped["global"] = {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"}
    shipped["rule_files"] = [str(DEPLOY / "prometheus" / pattern) for pattern in shipped["rule_files"]]
    addresses = {"rass-proxy": proxy, "rass-served-model": model}
    for job in shipped["scrape_configs"]:
        job["static_configs"] = [{"targets": [addresses[job["job_name"]].removeprefix("http://")]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(shipped))
    return path


async def observed_traffic(server_of: ServerOf, folder: Path, stack: ExitStack) -> Prometheus:
    """Start everything, send the traffic twice, and return once Prometheus has seen both rounds and their rates."""
    model = ScriptedModel()
    async with server_of(model.app()) as upstream:
        proxy = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, "-P", "-m", "proxy.cli", "serve", "--upstream", upstream]
        command += ["--mode", "recover", "--bundle", "reference", "--port", proxy.rpartition(":")[2]]
        command += ["--set", "recovery.time_limit_s=0.5"]
        start = running(command, folder / "proxy.log", f"{proxy}/readyz")
        await asyncio.to_thread(stack.enter_context, start)
        prometheus = Prometheus(f"http://127.0.0.1:{free_port()}")
        command = ["prometheus", f"--config.file={config(folder, proxy, upstream)}"]
        command += [f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address={prometheus.url.removeprefix('http://')}"]
        start = running(command, folder / "prometheus.log", f"{prometheus.url}/-/ready")
        await asyncio.to_thread(stack.enter_context, start)
        seen = 0
        for _ in range(2):
            seen += await send_traffic(proxy, model.name)
            await prometheus.finds(f"sum(rass_requests_total) == {seen}")
        for record in ("over_refused:ratio5m", "attempts_answered:ratio15m", "upstream_errors:ratio5m"):
            await prometheus.finds(f"rass:{record} > 0")
    return prometheus


@pytest.fixture(scope="session")
def promtool() -> str:
    """The name of the program, where Prometheus is installed; in continuous integration it has to be."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        if os.environ.get(REQUIRE):
            pytest.fail(f"{REQUIRE} is set and Prometheus is not installed")
        pytest.skip("Prometheus is not installed (Debian's package is called prometheus)")
    return "promtool"


@pytest.fixture(scope="session")
def prometheus(promtool: str, server_of: ServerOf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with the shipped rules, which has watched a real proxy serve every outcome twice."""
    with ExitStack() as stack:
        yield asyncio.run(observed_traffic(server_of, tmp_path_factory.mktemp("prometheus"), stack))


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The folder of the shipped deployment."""
    return DEPLOY
