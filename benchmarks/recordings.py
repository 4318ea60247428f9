"""Recorded answers of real models with people's labels, and a local server that gives them again."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.errors import InputError

__all__ = ["Recording", "load_recordings", "serve_recordings"]


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded answer.

    ``refusal`` is the label: True, False, or None where people called the answer partly a refusal. ``occurrence``
    counts earlier recordings of the same model and prompt, so that the three together name one answer.
    """

    id: str
    model: str
    prompt: str
    response: str
    refusal: bool | None
    occurrence: int


def load_recordings(path: Path) -> list[Recording]:
    """Read rows of ``{"id", "model", "prompt", "response", "refusal": 1|0|null}``, JSON Lines.

    Raises InputError naming file and line for anything malformed, and for a file without rows.
    """
    if not path.is_file():
        raise InputError(f"--responses: there is no file {path}")
    recordings: list[Recording] = []
    seen: dict[tuple[str, str], int] = defaultdict(int)
    with path.open("rb") as lines:  # decoded line by line, so that an error has its number
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                model, prompt = str(row["model"]), str(row["prompt"])
                recordings.append(
                    Recording(
                        id=str(row["id"]),
                        model=model,
                        prompt=prompt,
                        response=str(row["response"]),
                        refusal=_label(row["refusal"]),
                        occurrence=seen[model, prompt],
                    )
                )
            except KeyError as error:
                raise InputError(f"{path}:{number}: the field {error} is missing") from error
            except (TypeError, ValueError) as error:
                raise InputError(f"{path}:{number}: {error}") from error
            seen[model, prompt] += 1
    if not recordings:
        raise InputError(f"{path}: no rows; a replay of nothing has no figures")
    return recordings


@asynccontextmanager
async def serve_recordings(recordings: Sequence[Recording], host: str) -> AsyncIterator[str]:
    """Serve the recordings in the OpenAI shape on a free port of ``host``; yields the base URL.

    The answer is chosen by model and last user message; where one pair was recorded several times, the request's
    ``seed`` says which recording is meant, as it would choose among a real model's samples.
    """
    answers = {(row.model, row.prompt, row.occurrence): row for row in recordings}
    models = sorted({row.model for row in recordings})

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        model = str(body.get("model"))
        prompt = next((str(turn["content"]) for turn in reversed(body["messages"]) if turn["role"] == "user"), "")
        recording = answers.get((model, prompt, body.get("seed") or 0))
        if recording is None:
            message = f"nothing was recorded for this prompt and seed from the model {model!r}"
            return web.json_response(_error(message, "model_not_found"), status=404)
        return web.json_response(_completion(recording))

    async def list_models(_: web.Request) -> web.Response:
        data = [{"id": model, "object": "model", "created": 0, "owned_by": "recordings"} for model in models]
        return web.json_response({"object": "list", "data": data})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", list_models)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0)
        await site.start()
        port = runner.addresses[0][1]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def _label(value: object) -> bool | None:
    if value is None:
        return None
    if value in (0, 1):
        return bool(value)
    raise ValueError(f"refusal is 1, 0 or null, not {value!r}")


def _completion(recording: Recording) -> dict[str, Any]:
    # The token counts of the recorded model are not known; words stand for them so that the shape is complete.
    usage = {"prompt_tokens": len(recording.prompt.split()), "completion_tokens": len(recording.response.split())}
    return {
        "id": f"chatcmpl-{recording.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": recording.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": recording.response},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


def _error(message: str, code: str) -> Mapping[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
