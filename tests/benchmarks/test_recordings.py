from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.errors import InputError
from benchmarks.recordings import load_recordings, serve_recordings


def row(number: int, **changes: Any) -> dict[str, Any]:
    base = {"id": str(number), "model": "m", "prompt": "p", "response": f"answer {number}", "refusal": 0}
    return {**base, **changes}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in rows)
    path.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    return path


async def ask(url: str, **body: Any) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body) as response,
    ):
        return response.status, await response.json()


async def test_serves_each_recording_also_where_model_and_prompt_are_the_same(tmp_path: Path) -> None:
    recordings = load_recordings(write(tmp_path / "r.jsonl", [row(0), row(1), row(2, model="n", refusal=None)]))
    assert [recording.occurrence for recording in recordings] == [0, 1, 0]
    assert recordings[2].refusal is None
    messages = [{"role": "user", "content": "p"}]
    async with serve_recordings(recordings, "127.0.0.1") as url:
        texts = []
        for recording in recordings:
            status, body = await ask(url, model=recording.model, messages=messages, seed=recording.occurrence)
            assert status == 200
            texts.append(body["choices"][0]["message"]["content"])
        assert texts == ["answer 0", "answer 1", "answer 2"]
        status, body = await ask(url, model="m", messages=[{"role": "user", "content": "other"}])
        assert (status, body["error"]["code"]) == (404, "model_not_found")
        async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["m", "n"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no rows"),
        ([row(0, refusal=2)], "refusal is 1, 0 or null, not 2"),
        ([{"id": "x"}], "'model' is missing"),
        ([row(0), row(1, response="\udcff")], r"r\.jsonl:2: 'utf-8' codec can't decode"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_recordings(write(tmp_path / "r.jsonl", rows))


def test_says_that_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        load_recordings(tmp_path / "missing.jsonl")
