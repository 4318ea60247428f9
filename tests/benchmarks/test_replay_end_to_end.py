"""The replay against the real proxy, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cli
from benchmarks.errors import TargetError
from benchmarks.launch import running_proxy
from benchmarks.recordings import load_recordings, serve_recordings

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Open a terminal, find the process with `ps aux`, and end it with `kill` and its number."


def write(path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for model in ("one", "two"):
        for number in range(6):
            refused = number % 2 == 0
            text = REFUSAL if refused else ANSWER
            rows.append({"model": model, "prompt": f"question {number}", "response": text, "refusal": int(refused)})
    # The same question to the same model again, answered otherwise.
    rows.append({"model": "one", "prompt": "question 0", "response": ANSWER, "refusal": 0})
    rows.append({"model": "one", "prompt": "question 1", "response": REFUSAL, "refusal": None})
    path.write_text("".join(json.dumps({"id": f"row-{n}", **row}) + "\n" for n, row in enumerate(rows)))
    return path


def test_the_real_proxy_judges_every_recording_and_counts_what_the_client_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Settings of whoever measures must not reach the measured proxy.
    monkeypatch.setenv("RASS_PROXY_MODE", "recover")
    assert cli.main(["replay", "--responses", str(write(tmp_path / "responses.jsonl")), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["totals"]["requests"] == {"client": 14, "metrics": 14}
    assert document["totals"]["refusals"] == {"client": 7, "metrics": 7}
    assert document["all"]["recall"]["value"] == 1.0
    assert document["all"]["precision"]["value"] == 1.0
    assert document["models"]["one"]["rows"] == 8
    assert document["models"]["one"]["labelled_partly"] == {"full": 1}


async def test_a_proxy_that_does_not_start_says_why() -> None:
    with pytest.raises(TargetError, match="the proxy ended at its start with exit code 2: "):
        async with running_proxy("http://127.0.0.1:9", "127.0.0.1", ["--mode", "sideways"]):
            pytest.fail("the proxy came up with a mode that does not exist")


async def test_the_proxy_is_gone_afterwards(tmp_path: Path) -> None:
    recordings = load_recordings(write(tmp_path / "responses.jsonl"))
    async with (
        serve_recordings(recordings, "127.0.0.1") as upstream,
        running_proxy(upstream, "127.0.0.1", ["--mode", "observe"]) as url,
    ):
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


def test_real_answers_of_five_models(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(os.environ.get("RASS_DATA", "../shared/data")) / "responses" / "xstest_human_en.jsonl"
    if not path.is_file():
        pytest.skip(f"needs {path}; set RASS_DATA to the folder with the real answers")
    assert cli.main(["replay", "--responses", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["totals"]["requests"] == {"client": 2250, "metrics": 2250}
    assert len(document["models"]) == 5
    assert document["seconds"] < 120
