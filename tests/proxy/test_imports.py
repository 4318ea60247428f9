"""What a proxy imports: litellm and its company, and what runs detectors, only where a setting asks for it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

HEAVY = ("litellm", "openai", "httpx", "torch", "transformers", "onnxruntime", "tokenizers")
DETECTORS = ("py3langid",)

RUNNING = """
import asyncio, json, sys, urllib.request
from proxy.server import listen, running_server, url_of
from proxy.settings import Settings

async def main():
    settings = Settings(mode=sys.argv[1], upstream={"url": "http://127.0.0.1:9"}, log_level="error")
    with listen("127.0.0.1", 0) as listener:
        async with running_server(settings, listener):
            page = await asyncio.to_thread(lambda: urllib.request.urlopen(url_of(listener) + "/healthz").read())
            print(json.dumps([json.loads(page)["status"], sorted(sys.modules)]))

asyncio.run(main())
"""


@pytest.mark.parametrize(("mode", "unused"), [("observe", HEAVY), ("off", (*HEAVY, *DETECTORS))])
def test_a_running_plain_proxy_has_not_imported_what_it_does_not_use(mode, unused):
    command = [sys.executable, "-c", RUNNING, mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    status, modules = json.loads(done.stdout)
    assert status == "ok"
    assert [name for name in unused if name in modules] == []


def test_help_answers_within_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "proxy.cli", "--help"], capture_output=True, timeout=300, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Its own time, not the clock's: a busy machine is no failure.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1.0
