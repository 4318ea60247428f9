from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from io import StringIO
from pathlib import Path

import pytest
from aiohttp import web
from rich.console import Console

from benchmarks import replay
from benchmarks.errors import TargetError
from benchmarks.recordings import Recording
from benchmarks.replay import ReplayReport, Totals, detection, metric_total
from benchmarks.report import print_replay
from benchmarks.targets import Limits
from detectors.verdict import RefusalKind

FULL, PARTIAL, ANSWER = RefusalKind.FULL, RefusalKind.PARTIAL, RefusalKind.ANSWER


def recording(number: int, refusal: bool | None, prompt: str | None = None) -> Recording:
    return Recording(str(number), "m", prompt or f"prompt {number}", "text", refusal, 0)


async def test_no_request_is_sent_twice_since_the_proxy_would_count_both(
    start_server: Callable[[web.Application], Awaitable[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[int] = []

    async def complete(_: web.Request) -> web.Response:
        sent.append(200 if sent else 503)
        message = {"role": "assistant", "content": "text"}
        return web.json_response({"choices": [{"message": message}]}, status=sent[-1])

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text="")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/metrics", metrics)
    url = await start_server(app)
    monkeypatch.setattr(replay, "running_proxy", lambda *_: nullcontext(url))
    path = tmp_path / "responses.jsonl"
    path.write_text('{"id": "a", "model": "m", "prompt": "p", "response": "text", "refusal": 0}')
    options = replay.ReplayOptions(path, "127.0.0.1", Limits(pause_s=0.001))
    with pytest.raises(TargetError, match="row 'a': the proxy gave no answer: HTTP 503"):
        await asyncio.to_thread(replay.run, options)
    assert sent == [503]


def test_detection_counts_only_labelled_rows() -> None:
    judged = [
        (recording(0, True), FULL),
        (recording(1, True), PARTIAL),
        (recording(2, False), FULL),
        (recording(3, False), ANSWER),
        (recording(4, None), FULL),
        (recording(5, None), PARTIAL),
    ]
    found = detection(judged)
    assert (found.rows, found.labelled_refusals, found.found, found.false_alarms) == (6, 2, 1, 1)
    assert (found.recall.value, found.precision.value) == (0.5, 0.5)
    assert found.partly == {"full": 1, "partial": 1}


def test_answers_to_one_prompt_do_not_narrow_the_interval() -> None:
    apart = detection([(recording(n, True), FULL) for n in range(50)])
    together = detection([(recording(n, True, prompt=f"prompt {n % 10}"), FULL) for n in range(50)])
    # All of n found: the exact lower end is 0.025 ** (1 / n).
    assert apart.recall.low == pytest.approx(0.025 ** (1 / 50))
    assert together.recall.low == pytest.approx(0.025 ** (1 / 10))


def test_nothing_labelled_is_not_zero() -> None:
    found = detection([(recording(0, None), ANSWER)])
    assert math.isnan(found.recall.value)
    assert found.to_json()["recall"] == {"value": None, "low": 0.0, "high": 1.0}


def test_sums_a_counter_over_its_labels() -> None:
    page = (
        "# HELP rass_refusals Refusals.\n# TYPE rass_refusals counter\n"
        'rass_refusals_total{kind="over",language="en"} 3.0\n'
        'rass_refusals_total{kind="unknown",language="de"} 4.0\n'
        'rass_refusals_created{kind="over",language="en"} 1.7e9\n'
    )
    assert metric_total(page, "rass_refusals_total") == 7
    assert metric_total(page, "rass_requests_total") == 0


def test_the_table_is_whole_in_80_columns() -> None:
    part = detection([(recording(n, True), FULL) for n in range(2250)])
    tiny = detection([(recording(0, True), FULL)])
    report = ReplayReport({"mistralinstruct": tiny}, part, Totals(2250, 2250), Totals(2250, 2249), 1.0)
    console = Console(width=80, file=StringIO(), record=True)
    print_replay(report, console)
    text = console.export_text()
    assert "…" not in text
    assert "100.0 (2.5–100.0)" in text
    assert "but /metrics says 2249" in text


def test_the_totals_must_agree() -> None:
    part = detection([(recording(0, True), FULL)])
    good = ReplayReport({"m": part}, part, Totals(1, 1), Totals(1, 1), 0.1)
    assert good.agree
    assert not ReplayReport({"m": part}, part, Totals(1, 1), Totals(1, 2), 0.1).agree
    assert good.to_json()["totals"]["agree"] is True
