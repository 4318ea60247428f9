"""Exact and score intervals for rates and paired differences, in plain Python.

Safety figures here are small counts: often no event in a few hundred requests. A bootstrap of zero events is [0, 0], so
rates get the Clopper-Pearson interval and paired differences Tango's score interval; both stay honest at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["Interval", "PairedUnits", "clopper_pearson", "pair_units", "regularised_incomplete_beta", "tango_interval"]

_BISECTIONS = 80
"""Halvings of [0, 1] or [-1, 1]: more than double precision can tell apart."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its confidence interval, all in the unit of the estimate."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return the three numbers under their names."""
        return {"value": self.value, "low": self.low, "high": self.high}


def regularised_incomplete_beta(x: float, a: float, b: float) -> float:
    """Return I_x(a, b) for 0 <= x <= 1 and a, b > 0, by Lentz's continued fraction (relative error near 1e-14)."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    # The fraction converges fast only below the mean of the distribution; the other side follows by symmetry.
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - regularised_incomplete_beta(1.0 - x, b, a)
    tiny = 1e-300
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    c = 1.0
    d = 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 1_000 + int(10 * math.sqrt(max(a, b)))):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * fraction / a


def clopper_pearson(successes: float, trials: float, confidence: float = 0.95) -> Interval:
    """Return the rate ``successes / trials`` with its two-sided exact binomial interval (Clopper and Pearson 1934).

    The ends are quantiles of beta distributions, which also take counts that are no integers: with clustered rows,
    ``successes`` may be the sum over clusters of each cluster's own rate and ``trials`` the number of clusters;
    averaging within a cluster only lowers the variance, so the interval stays conservative. With no trials nothing is
    known: the value is nan and the interval [0, 1].
    """
    if trials < 0 or not 0 <= successes <= trials:
        raise ValueError(f"clopper_pearson needs 0 <= successes <= trials, got {successes} of {trials}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    tail = (1.0 - confidence) / 2.0
    failures = trials - successes
    low, high = 0.0, 1.0
    if successes > 0:
        low = _rising_root(lambda p: regularised_incomplete_beta(p, successes, failures + 1.0) - tail, 0.0, 1.0)
    if failures > 0:
        high = _rising_root(lambda p: regularised_incomplete_beta(p, successes + 1.0, failures) + tail - 1.0, 0.0, 1.0)
    return Interval(successes / trials, low, high)


def tango_interval(only_first: float, only_second: float, pairs: float, confidence: float = 0.95) -> Interval:
    """Return the paired difference of two rates with Tango's score interval (Statistics in Medicine 17, 1998).

    ``only_first`` counts the pairs in which the event happened in the first arm alone, ``only_second`` in the second
    alone; the difference is ``(only_first - only_second) / pairs``. With no discordant pair the interval is
    ± z² / (pairs + z²), not a point. With no pairs the value is nan and the interval [-1, 1].
    """
    if min(only_first, only_second, pairs) < 0 or only_first + only_second > pairs:
        raise ValueError(f"tango_interval got {only_first} and {only_second} discordant of {pairs} pairs")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if pairs == 0:
        return Interval(math.nan, -1.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    value = (only_first - only_second) / pairs

    def score(difference: float) -> float:
        """Tango's statistic; it falls as the supposed difference grows."""
        a = 2.0 * pairs
        b = -only_first - only_second + (2.0 * pairs - only_first + only_second) * difference
        c = -only_second * difference * (1.0 - difference)
        nuisance = (math.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
        variance = pairs * (2.0 * nuisance + difference * (1.0 - difference))
        gap = only_first - only_second - pairs * difference
        if variance <= 0.0:
            return math.copysign(math.inf, gap) if gap else 0.0
        return gap / math.sqrt(variance)

    low = _rising_root(lambda difference: z - score(difference), -1.0, value)
    high = _rising_root(lambda difference: -z - score(difference), value, 1.0)
    return Interval(value, low, high)


@dataclass(frozen=True, slots=True)
class PairedUnits:
    """How many of ``units`` were lost and won from one arm to the other, a unit being several rows at times."""

    worse: int
    better: int
    units: int

    @property
    def loss(self) -> Interval:
        """(worse - better) / units with Tango's interval."""
        return tango_interval(self.worse, self.better, self.units)


def pair_units(rows: Iterable[tuple[str, bool, bool]]) -> PairedUnits:
    """Count the units of rows (unit, good in the first arm, good in the second).

    A unit is worse when any of its rows is, whatever else changed or was bad before: a gain in one row buys nothing for
    another. It is better when a row is and none is worse.
    """
    worse: set[str] = set()
    better: set[str] = set()
    units: set[str] = set()
    for unit, before, after in rows:
        units.add(unit)
        if before and not after:
            worse.add(unit)
        elif after and not before:
            better.add(unit)
    return PairedUnits(len(worse), len(better - worse), len(units))


def _rising_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a rising function crosses zero in [low, high]; an end if it does not cross inside."""
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if function(middle) < 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
