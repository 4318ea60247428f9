"""The shipped model and bundle behind the real proxy, started once by the command that a user types."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from detectors import bundle_writer
from detectors.bundle import load
from proxy.dependencies import reference_bundle

START_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Addresses of a running served model and of the proxy in front of it."""

    model: str
    proxy: str


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def command(*words: object) -> list[str]:
    """``rass-proxy`` with arguments, run by this interpreter."""
    return [sys.executable, "-P", "-m", "proxy.cli", *(str(word) for word in words)]


def environment() -> dict[str, str]:
    """The environment without the settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RASS_PROXY_")}


@contextmanager
def running(words: Sequence[object], ready_at: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the context is left; yields once ``ready_at`` answers 200."""
    with log.open("wb") as output:
        process = subprocess.Popen(command(*words), stdout=output, stderr=subprocess.STDOUT, env=environment())
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                with urllib.request.urlopen(ready_at, timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """``rass-proxy up`` with the shipped model and bundle."""
    port, model_port = free_ports(2)
    proxy = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("up") / "up.log"
    with running(["up", "--port", port, "--model-port", model_port], f"{proxy}/readyz", log):
        yield Pair(f"http://127.0.0.1:{model_port}", proxy)


@pytest.fixture(scope="session")
def run_to_end() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``rass-proxy`` with arguments that end by themselves."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words), capture_output=True, text=True, timeout=START_LIMIT_S, env=environment(), check=False
        )

    return run


@pytest.fixture
def start_proxy(tmp_path: Path) -> Callable[..., AbstractContextManager[str]]:
    """Run ``rass-proxy serve`` with further arguments until the context is left; yields its address."""

    @contextmanager
    def start(*words: object) -> Iterator[str]:
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        with running(["serve", "--port", port, *words], f"{url}/healthz", tmp_path / "serve.log"):
            yield url

    return start


@pytest.fixture
def bundle_of_another_model(tmp_path: Path) -> Path:
    """The shipped bundle as if it had been measured on other weights of the same shape."""
    shipped = load(reference_bundle())
    manifest = shipped.manifest
    path = tmp_path / "another"
    bundle_writer.write(
        path,
        replace(manifest, model=replace(manifest.model, revision="0" * 16)),
        vectors={name: shipped.vector_array(name) for name in manifest.vectors},
        probes={name: (shipped.probe(name)[0], shipped.probe(name)[1]) for name in manifest.probes},
        card="Of another model.\n",
    )
    return path
