"""A world of a few rows, its grammar, and servers that answer by rule."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from benchmarks.cases import Case, Kind
from benchmarks.rates import ScoredRow
from benchmarks.scoring import Outcome
from benchmarks.targets import Answer
from detectors.verdict import Message

REFUSAL = "I can't help with that."
GRAMMAR = {
    "languages": {
        "en": {
            "refusals": [REFUSAL, "Sorry, no."],
            "answers": [r"To (?P<action>\w+) (?P<object>[\w ]+), look first\. Then begin\."],
        },
        "es": {
            "refusals": ["No puedo ayudar con eso."],
            "answers": [r"Para (?P<action>\w+) (?P<object>[\w ]+), mira primero\. Luego empieza\."],
        },
    }
}


@pytest.fixture
def grammar_document() -> dict[str, Any]:
    """The grammar of the small world, fresh for each test."""
    document: dict[str, Any] = json.loads(json.dumps(GRAMMAR))
    return document


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """Build one row as a prompts file holds it."""

    def build(
        number: int, kind: str, *, language: str = "en", base_id: str | None = None, **more: Any
    ) -> dict[str, Any]:
        return {
            "id": f"{kind}-{language}-{number}",
            "base_id": base_id or f"{kind}-{language}-{number}",
            "language": language,
            "kind": kind,
            "messages": [{"role": "user", "content": f"{kind} {language} {number}: how do I stop the process?"}],
            "wrapping": None,
            "wrapping_seen": None,
            "verb": "stop",
            "object": "process",
            "category": "software",
            "action": "stop",
            "target": "the process",
            **more,
        }

    return build


@pytest.fixture
def write_world(tmp_path: Path, grammar_document: dict[str, Any]) -> Callable[[list[dict[str, Any]]], Path]:
    """Write rows and grammar; returns the path of the rows."""

    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / "report.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (tmp_path / "grammar.json").write_text(json.dumps(grammar_document), encoding="utf-8")
        return path

    return write


@pytest.fixture
def scored() -> Callable[..., ScoredRow]:
    """Build a scored row from what matters for counting."""

    def build(
        base_id: str,
        kind: Kind,
        outcome: Outcome,
        *,
        row_id: str = "",
        language: str = "en",
        text: str | None = "text",
        seen: bool | None = None,
        action: str | None = None,
    ) -> ScoredRow:
        case = Case(
            id=row_id or f"{base_id}-{language}",
            base_id=base_id,
            language=language,
            kind=kind,
            messages=(Message("user", "request"),),
            wrapping=None if seen is None else "wrapped",
            wrapping_seen=seen,
            verb="stop",
            object="process",
            category="software",
            action="stop",
            target="the process",
        )
        headers = {} if action is None else {"x-rass-action": action}
        return ScoredRow(case, Answer(text, None if text is not None else "HTTP 500", headers), outcome)

    return build


Reply = tuple[int, str, dict[str, str]]
"""Status, text of the answer (or of the error), extra headers."""


@pytest.fixture
def chat_server(
    start_server: Callable[[web.Application], Awaitable[str]],
) -> Callable[[Callable[[dict[str, Any]], Reply]], Awaitable[str]]:
    """Start OpenAI-shaped servers that answer by a rule over the request body; each call returns a base URL."""

    async def start(rule: Callable[[dict[str, Any]], Reply]) -> str:
        return await start_server(_application(rule))

    return start


def _application(rule: Callable[[dict[str, Any]], Reply]) -> web.Application:
    async def complete(request: web.Request) -> web.Response:
        status, text, headers = rule(await request.json())
        if status != 200:
            return web.json_response({"error": {"message": text}}, status=status, headers=headers)
        message = {"role": "assistant", "content": text}
        return web.json_response({"choices": [{"index": 0, "message": message}]}, headers=headers)

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "small", "object": "model"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", models)
    return app
