"""`rass-bench soak`: the same work each round, every answer held against its request, and faults found."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from aiohttp import web

from benchmarks import cli, soak
from benchmarks.errors import TargetError
from benchmarks.load import Upstream
from benchmarks.scripted_upstream import Fate, answer_to, refusal_to
from benchmarks.soak import Ask, SoakOptions, SoakReport, Way, judge, plan, problems_of

OPTIONS = SoakOptions(
    bundle=Path("unused"),
    mode="recover",
    requests=400,
    streams=20,
    rounds=2,
    concurrency=8,
    timeout_s=30.0,
    max_growth_mb=8.0,
    seed=0,
)


@pytest.mark.parametrize("mode", ["recover", "observe"])
def test_a_short_soak_loses_and_mixes_nothing(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["soak", "--mode", mode, "--requests", "240", "--streams", "40", "--rounds", "2", "--json"]
    # Two rounds are too few for memory to have settled; what it does over many is for the long run to say.
    code = cli.main([*arguments, "--max-growth-mb", "100"])
    document = json.loads(capsys.readouterr().out)
    assert document["problems"] == []
    assert code == 0
    assert sum(document["counts"].values()) == 240
    assert document["most_open"] >= 36
    recovered = sum(count for name, count in document["counts"].items() if name.endswith(": recovered"))
    assert (recovered > 0) is (mode == "recover")


def test_rounds_are_alike_and_markers_unique() -> None:
    rounds = plan(OPTIONS)
    asks = [ask for wave, mix in rounds for ask in (*wave, *mix)]
    assert len(asks) == OPTIONS.requests
    assert len({ask.marker for ask in asks}) == len(asks)
    first, second = ([(ask.fate, ask.way) for ask in (*wave, *mix)] for wave, mix in rounds)
    assert first == second
    assert {way for _, way in first} == set(Way)
    assert {fate for fate, _ in first} == set(Fate)


@pytest.mark.parametrize(
    ("fate", "mode", "text", "outcome"),
    [
        (Fate.ANSWERED, "recover", answer_to("m1"), "answered"),
        (Fate.ANSWERED, "recover", answer_to("m2"), None),
        (Fate.ANSWERED, "recover", answer_to("m1")[:-1], None),
        (Fate.ANSWERED, "recover", refusal_to("m1"), None),
        (Fate.OVER_REFUSED, "recover", answer_to("m1"), "recovered"),
        (Fate.OVER_REFUSED, "recover", refusal_to("m1"), "refused"),
        (Fate.OVER_REFUSED, "recover", answer_to("m2"), None),
        (Fate.OVER_REFUSED, "observe", answer_to("m1"), None),
        (Fate.WARRANTED, "recover", refusal_to("m1"), "refused"),
        (Fate.WARRANTED, "recover", answer_to("m1"), None),
    ],
)
def test_an_answer_is_its_own_or_wrong(fate: Fate, mode: str, text: str, outcome: str | None) -> None:
    assert judge(Ask("m1", fate, Way.WHOLE), mode, text) == outcome


async def test_clients_that_vanish_want_a_stream_to_leave(
    start_server: Callable[[web.Application], Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: web.Request) -> web.Response:
        return web.Response(status=429, text="no place")

    report = await soaked(start_server, monkeypatch, full)
    assert report.counts["vanish-late: left"] == 0 < report.counts["vanish-late: lost"]


async def test_a_proxy_that_ends_in_the_middle_is_told_in_a_sentence(
    start_server: Callable[[web.Application], Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    with pytest.raises(TargetError, match="the proxy or its upstream answers no more"):
        await soaked(start_server, monkeypatch, gone)


async def soaked(
    start_server: Callable[[web.Application], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[web.Request], Awaitable[web.Response]],
) -> SoakReport:
    """Soak a proxy that meets every request with ``answer``; its metrics say nothing."""

    async def counts(_: web.Request) -> web.Response:
        return web.json_response({"open": 0, "most_open": 0})

    async def metrics(request: web.Request) -> web.Response:
        await answer(request)
        return web.Response(text="")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/counts", counts)
    url = await start_server(app)
    monkeypatch.setattr(soak, "free_port", lambda _: int(url.rpartition(":")[2]))
    monkeypatch.setattr(soak, "running_upstream", lambda *_, **__: nullcontext(Upstream(url, os.getpid(), "m")))
    monkeypatch.setattr(soak, "running_process", lambda *_: nullcontext(os.getpid()))
    return await asyncio.to_thread(soak.run, OPTIONS)


def test_faults_of_a_whole_run_are_told() -> None:
    good = SoakReport(Counter({"whole: answered": 9, "whole: recovered": 1}), [150.0, 151.0], most_open=20)
    assert list(problems_of(OPTIONS, good)) == []
    bad = SoakReport(Counter({"whole: answered": 9, "stream: lost": 2}), [150.0, 155.0, 160.0], most_open=3)
    said = list(problems_of(OPTIONS, bad))
    assert said == [
        "answers lost or wrong: stream: lost 2",
        "nothing was recovered, so this run says nothing about recovery",
        "only 3 of 20 streams were ever open at once",
        "memory grew by 10.0 MB after the first round (150, 155, 160 MB); every round did the same work",
    ]
