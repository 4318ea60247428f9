"""Thresholds keep the bound that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.manifest import ZoneThresholds
from detectors.statistics import clopper_pearson
from rass.zones import UNREACHABLE, allowed_events, false_open_threshold, thresholds, zone_table


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(400, 1500), st.sampled_from([0.01, 0.02, 0.05]))
def test_upper_bound_of_false_open_stays_under_the_limit(seed: int, rows: int, limit: float) -> None:
    generator = np.random.default_rng(seed)
    scores = np.round(generator.normal(2, 2, rows), 2)  # rounded: ties are where an off-by-one shows
    found = false_open_threshold(scores, [str(row) for row in range(rows)], limit)
    assert found is not None
    assert clopper_pearson(int((scores < found).sum()), rows).high <= limit
    higher = np.sort(scores[scores > found])[0]
    assert clopper_pearson(int((scores < higher).sum()), rows).high > limit


def test_rows_of_one_request_are_one_unit() -> None:
    scores = np.arange(4000, dtype=float)
    apart = false_open_threshold(scores, [str(row) for row in range(4000)], 0.01)
    together = false_open_threshold(scores, [str(row // 8) for row in range(4000)], 0.01)
    assert apart is not None
    assert together is not None
    assert together < apart  # 500 units support less than 4,000


def test_too_few_units_promise_nothing() -> None:
    assert allowed_events(100, 0.01) is None
    assert false_open_threshold(np.arange(100.0), [str(row) for row in range(100)], 0.01) is None
    few = {"harmful": (np.arange(100.0), [str(row) for row in range(100)])}
    table = thresholds(few, (np.arange(-50.0, 0.0), ["x"] * 50), false_open=0.01, false_close=0.05)
    assert table.benign_below == UNREACHABLE


def test_each_kind_is_bounded_by_itself_and_zones_meet_at_zero() -> None:
    generator = np.random.default_rng(0)
    names = [str(row) for row in range(1000)]
    plain, attacks = generator.normal(8, 1, 1000), generator.normal(1, 2, 1000)
    benign = (generator.normal(-6, 1, 1000), names)
    both = {"harmful": (plain, names), "attack": (attacks, names)}
    table = thresholds(both, benign, false_open=0.02, false_close=0.05)
    assert table.benign_below == false_open_threshold(attacks, names, 0.02)
    easy = thresholds({"harmful": (plain, names)}, benign, false_open=0.02, false_close=0.05)
    assert easy == ZoneThresholds(0.0, 0.0)


def test_default_is_the_most_conservative() -> None:
    table = zone_table({"en": ZoneThresholds(-1.0, 0.5), "de": ZoneThresholds(-3.0, 0.2)})
    assert table.default == ZoneThresholds(-3.0, 0.2)


def test_allowed_events_grow_with_units() -> None:
    assert allowed_events(1000, 0.01) == pytest.approx(4.02, abs=0.2)
