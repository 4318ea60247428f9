"""A real server on a socket: clients that leave, the official client, start-up messages, shutdown."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import openai
import pytest
import uvicorn

from rass.serving.app import create_app
from rass.serving.cli import add_arguments, run
from rass.serving.engine import Engine, EngineSettings
from rass.serving.loading import ServedModel, load_bundle, load_model


@contextlib.asynccontextmanager
async def listening(engine: Engine, until: Callable[..., Awaitable[None]]) -> AsyncIterator[int]:
    """Serve an engine on a free port, which is yielded, until the context is left."""
    server = uvicorn.Server(uvicorn.Config(create_app(engine), port=0, log_level="error", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def endless(saying, until) -> AsyncIterator[tuple[Engine, int]]:
    """A server on a free port whose answers end only at the context's end: two tokens that follow each other."""
    served = saying("ab")
    weights = served.model.lm_head.weight.data
    a, b = served.tokenizer.encode("ab", add_special_tokens=False)
    weights[:, b] = 0.0
    weights[a, b] = 1.0
    engine = Engine(served, None, EngineSettings(max_concurrency=2))
    async with listening(engine, until) as port:
        yield engine, port


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_place(endless, until, stream):
    engine, port = endless
    body = json.dumps({"model": "saying", "messages": [{"role": "user", "content": "x"}], "stream": stream}).encode()
    steps, release = 0, threading.Event()

    def stop_after_two(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps > 2:
            release.wait(60)  # so that the answer cannot end by itself

    handle = engine.served.model.register_forward_pre_hook(stop_after_two)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    if stream:
        await reader.readuntil(b"data: ")
    await until(lambda: engine.admission.running == 1)
    writer.close()
    try:
        await until(lambda: engine.admission.running == 0)
    finally:
        release.set()
        handle.remove()


async def test_the_official_client_streams_and_steers(served, bundle, until):
    async with (
        listening(Engine(served, bundle), until) as port,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
    ):
        messages = [{"role": "user", "content": "How do I kill a process?"}]
        whole = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, temperature=0)
        stream = await client.chat.completions.create(
            model="tiny", messages=messages, max_completion_tokens=12, temperature=0, stream=True
        )
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(parts) == whole.choices[0].message.content
        steer = {"vector": f"refusal-en@{bundle.digest}", "strength": 4.0}
        steered = await client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=12, extra_body={"rass": {"steer": steer}}
        )
        assert steered.choices[0].message.content != whole.choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="not supported"):
            await client.chat.completions.create(model="tiny", messages=messages, n=2)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="other", messages=messages)


@pytest.fixture
def folder(served: ServedModel, tmp_path: Path) -> Path:
    """The random model as a folder on disk."""
    path = tmp_path / "tiny"
    served.model.save_pretrained(path)
    served.tokenizer.save_pretrained(path)
    return path


def arguments(*args: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(arg) for arg in args])


def test_a_folder_is_loaded_with_its_revision_and_its_bundle(folder, make_bundle, tmp_path):
    served = load_model(str(folder), device="cpu")
    assert served.id == "tiny"
    assert str(folder) in served.names
    assert served.context_length == 512
    assert served.default_temperature == 0.0
    make_bundle(tmp_path / "bundle", revision=served.revision)
    bundle = load_bundle(str(tmp_path / "bundle"), served)
    assert bundle is not None
    assert bundle.manifest.model.revision == served.revision
    assert load_bundle("none", served) is None


def test_what_cannot_be_served_ends_with_a_message_and_exit_code_2(folder, make_bundle, tmp_path, capsys):
    make_bundle(tmp_path / "other", revision="f" * 16)
    make_bundle(tmp_path / "damaged")
    probe = tmp_path / "damaged" / "probe.safetensors"
    data = bytearray(probe.read_bytes())
    data[-1] ^= 1
    probe.write_bytes(bytes(data))
    (tmp_path / "empty").mkdir()
    for model, bundle, says in (
        (folder, tmp_path / "other", "revision"),
        (folder, tmp_path / "damaged", "was changed after export"),
        (folder, tmp_path / "nowhere", "is not a folder"),
        (tmp_path / "empty", "none", "holds no model"),
        ("nowhere", "none", "there is no folder"),
    ):
        assert run(arguments("--model", model, "--bundle", bundle, "--device", "cpu")) == 2
        error = capsys.readouterr().err
        assert error.startswith("rass serve-model: ")
        assert says in error
        assert "Traceback" not in error


def test_the_process_serves_and_stops_on_a_signal(folder):
    program = (
        "import argparse, sys; from rass.serving.cli import add_arguments, run; "
        "assert 'torch' not in sys.modules; "
        "p = argparse.ArgumentParser(); add_arguments(p); sys.exit(run(p.parse_args()))"
    )
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--model", str(folder), "--port", str(port), "--device", "cpu"],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
                    assert json.load(response)["status"] == "ok"
                break
            except OSError:
                time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, error
    assert b"Traceback" not in error
