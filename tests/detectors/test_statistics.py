"""Intervals against published values and against the definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.statistics import clopper_pearson, regularised_incomplete_beta, tango_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.3085),  # the "rule of three" tables: 1 - 0.025 ** (1 / 10)
        (10, 10, 0.6915, 1.0),
        (15, 148, 0.0578, 0.1617),  # Newcombe 1998, Statistics in Medicine 17:857, table I
        (81, 263, 0.2527, 0.3676),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_clopper_pearson_published(successes: int, trials: int, low: float, high: float) -> None:
    interval = clopper_pearson(successes, trials)
    assert interval.value == successes / trials
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 400), st.data())
def test_clopper_pearson_ends_have_the_promised_tails(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    interval = clopper_pearson(successes, trials)

    def at_most(count: int, p: float) -> float:
        return math.fsum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(count + 1))

    if successes < trials:
        assert at_most(successes, interval.high) == pytest.approx(0.025, abs=1e-9)
    if successes > 0:
        assert 1 - at_most(successes - 1, interval.low) == pytest.approx(0.025, abs=1e-9)


def test_clopper_pearson_without_trials_knows_nothing() -> None:
    interval = clopper_pearson(0, 0)
    assert math.isnan(interval.value)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_clopper_pearson_takes_fractional_counts_between_whole_ones() -> None:
    assert clopper_pearson(3, 100).high < clopper_pearson(3.5, 100).high < clopper_pearson(4, 100).high


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (1, -1)])
def test_clopper_pearson_rejects_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= trials"):
        clopper_pearson(successes, trials)


def test_incomplete_beta_is_symmetric_and_exact_in_closed_cases() -> None:
    assert regularised_incomplete_beta(0.3, 1, 1) == pytest.approx(0.3)
    assert regularised_incomplete_beta(0.3, 4, 1) == pytest.approx(0.3**4)
    assert regularised_incomplete_beta(0.2, 3, 7) == pytest.approx(1 - regularised_incomplete_beta(0.8, 7, 3))


def test_tango_published() -> None:
    # Airway hyper-responsiveness, Fagerland, Lydersen and Laake 2014: 1, 1, 7, 12.
    interval = tango_interval(1, 7, 21)
    assert interval.value == pytest.approx(-6 / 21)
    assert interval.low == pytest.approx(-0.517, abs=5e-4)
    assert interval.high == pytest.approx(-0.026, abs=5e-4)


def test_tango_agrees_with_propcis() -> None:
    # R: PropCIs::scoreci.mp(25, 28, 618, conf.level = 0.90), which estimates (second - first) / n.
    interval = tango_interval(28, 25, 618, confidence=0.90)
    assert interval.low == pytest.approx(-0.0148, abs=5e-5)
    assert interval.high == pytest.approx(0.0247, abs=5e-5)


def test_tango_without_discordant_pairs_is_no_point() -> None:
    z2 = 1.959963984540054**2
    interval = tango_interval(0, 0, 470)
    assert interval.value == 0.0
    assert interval.high == pytest.approx(z2 / (470 + z2))
    assert interval.low == pytest.approx(-interval.high)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_tango_mirrors_and_contains_its_estimate(only_first: int, only_second: int, concordant: int) -> None:
    pairs = only_first + only_second + concordant
    interval, mirror = tango_interval(only_first, only_second, pairs), tango_interval(only_second, only_first, pairs)
    assert mirror.low == pytest.approx(-interval.high, abs=1e-9)
    assert -1.0 <= interval.low <= interval.high <= 1.0
    if pairs:
        assert interval.low <= interval.value <= interval.high


@pytest.mark.parametrize("counts", [(44, 44, 44), (-1, 0, 10), (0, 11, 10)])
def test_tango_rejects_impossible_counts(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="discordant"):
        tango_interval(*counts)
