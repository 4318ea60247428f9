"""Figures of a load: medians over rounds, ratios within a round, and sentences about what spoils them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks.load_client import Window
from benchmarks.load_report import LOADS, LoadReport, Visit, warnings_about


def window(load: str, cpu: float, **changed: Any) -> Window:
    fields: dict[str, Any] = {
        "load": load,
        "requests": 100,
        "failed": 0,
        "failure": "",
        "seconds": 1.0,
        "cpu_us_per_request": cpu,
        "p50_ms": cpu / 100,
        "p99_ms": cpu / 50,
        "first_chunk_ms": cpu / 200,
        "requests_per_s": 100.0,
        "target_busy": 0.95,
        "upstream_busy": 0.2,
        "client_busy": 0.3,
        "others_busy": 0.01,
    }
    return Window(**{**fields, **changed})


def visit(target: str, number: int, cpu: float, *, held: float | None = None, **changed: Any) -> Visit:
    return Visit(target, number, {load.name: window(load.name, cpu, **changed) for load in LOADS}, 50.0 + number, held)


def report(*visits: Visit) -> LoadReport:
    return LoadReport(visits, {}, warnings_about(visits, shared_load_core=True, own_core=True))


def test_ratios_are_taken_within_a_round() -> None:
    # The machine was twice as slow in the second round, and the ratio is none the worse for it.
    found = report(
        visit("off", 0, 150), visit("bare", 0, 100), visit("bare", 1, 200), visit("off", 1, 300), visit("bare", 2, 90)
    )
    ratio = found.ratio("off", "bare", "whole-16")
    assert (ratio.value, ratio.low, ratio.high) == (1.5, 1.5, 1.5)
    assert found.first_chunk_later_ms("off").value == pytest.approx((0.25 + 0.5) / 2)


def test_the_six_figures_are_medians_over_rounds() -> None:
    found = report(visit("bare", 0, 100), visit("bare", 1, 120), visit("bare", 2, 900))
    assert found.to_json()["targets"] == {
        "bare": {
            "cpu_us_per_request": 120,
            "p50_ms": 1.2,
            "p99_ms": 2.4,
            "requests_per_s": 100.0,
            "first_chunk_ms": 0.6,
            "rss_mb": 51.0,
        }
    }
    spread = found.to_json()["loads"]["bare"]["whole-16"]["cpu_us_per_request"]
    assert spread == {"value": 120, "low": 100, "high": 900}


def test_litellm_is_told_in_multiples_of_every_other_target() -> None:
    found = report(visit("bare", 0, 100), visit("off", 0, 200), visit("litellm", 0, 3000)).to_json()
    assert found["litellm_to"]["off"]["whole-1"]["value"] == 15
    assert set(found["litellm_to"]) == {"bare", "off"}


def test_a_load_that_a_target_does_not_answer_is_null_and_no_zero() -> None:
    broken = visit("portkey", 0, math.nan, failed=100, failure="HTTP 500")
    document = report(visit("bare", 0, 100), broken, visit("off", 0, 200)).to_json()
    assert document["targets"]["portkey"]["cpu_us_per_request"] is None
    assert document["to_bare"]["portkey"]["cpu"]["stream-1"] == {"value": None, "low": None, "high": None}
    assert document["failed"] == 100 * len(LOADS)
    json.dumps(document, allow_nan=False)


def test_nothing_is_warned_about_on_a_quiet_machine() -> None:
    assert warnings_about([visit("bare", 0, 100)], shared_load_core=True, own_core=True) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"target_busy": 0.6, "upstream_busy": 0.4, "client_busy": 0.55}, "the load generator was the bottleneck"),
        ({"others_busy": 0.3}, "something else used the target's core"),
        ({"failed": 3, "failure": "HTTP 500"}, "3 of 100 requests failed: HTTP 500"),
    ],
)
def test_what_spoils_a_figure_is_said(changed: dict[str, Any], said: str) -> None:
    found = warnings_about([visit("bare", 0, 100, **changed)], shared_load_core=True, own_core=True)
    assert len(found) == len(LOADS)
    assert said in found[0]


def test_a_generator_with_a_core_to_itself_is_no_bottleneck_at_half_use() -> None:
    busy = visit("bare", 0, 100, target_busy=0.6, upstream_busy=0.5, client_busy=0.5)
    assert warnings_about([busy], shared_load_core=False, own_core=True) == []


def test_one_core_for_all_is_said() -> None:
    found = warnings_about([visit("bare", 0, 100, others_busy=None)], shared_load_core=True, own_core=False)
    assert found == ["generator, upstream and target shared one core: latency and rate are not the target's alone"]
