"""`rass-bench soak`: the same work each round, every answer held against its request, and faults found."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import cli
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
