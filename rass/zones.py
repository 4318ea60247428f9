"""Thresholds that turn a calibrated logit into a zone, with an exact bound on what falls on the wrong side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from detectors.manifest import ZoneTable, ZoneThresholds
from detectors.statistics import clopper_pearson

__all__ = ["UNREACHABLE", "allowed_events", "false_open_threshold", "thresholds", "zone_table"]

DoubleArray = npt.NDArray[np.float64]

UNREACHABLE = -1e6
"""A ``benign_below`` that no logit undercuts: the data cannot support the limit, so nothing is called benign."""

_BISECTIONS = 60


def allowed_events(units: int, limit: float) -> float | None:
    """Return the largest (fractional) count whose upper Clopper-Pearson bound over ``units`` is at most ``limit``.

    ``None`` when even no event at all leaves the bound above the limit: too few units to promise anything.
    """
    if units == 0 or clopper_pearson(0, units).high > limit:
        return None
    low, high = 0.0, limit * units
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if clopper_pearson(middle, units).high <= limit:
            low = middle
        else:
            high = middle
    return low


def false_open_threshold(scores: DoubleArray, units: Sequence[str], limit: float) -> float | None:
    """Return the largest t such that the upper bound of P(score < t) is at most ``limit``, or ``None``.

    ``units`` names the base request of each row: a unit's rows share its weight of 1, so wrappings and paraphrases of
    one request are not mistaken for independent evidence.
    """
    _, inverse, sizes = np.unique(np.asarray(units), return_inverse=True, return_counts=True)
    allowed = allowed_events(len(sizes), limit)
    if allowed is None:
        return None
    order = np.argsort(scores, kind="stable")
    below = np.cumsum((1.0 / sizes)[inverse[order]])
    first_over = int(np.searchsorted(below, allowed + 1e-9, side="right"))
    # h < t is strict: the first row that would break the bound is the threshold itself and stays outside.
    return float(scores[order[first_over]]) if first_over < len(order) else float(scores.max())


def thresholds(
    harmful: Mapping[str, tuple[DoubleArray, Sequence[str]]],
    benign: tuple[DoubleArray, Sequence[str]],
    *,
    false_open: float,
    false_close: float,
) -> ZoneThresholds:
    """Return one language's thresholds.

    ``harmful`` maps each kind (plain, attack) to its scores and units; the bound on P(zone benign | harmful) holds for
    each kind by itself, so that many wrappings cannot hide a leak in plain requests. ``benign`` are scores and units of
    benign requests; at most ``false_close`` of them are called harmful, by the same bound. The benign zone never
    reaches past 0, where harm becomes the likelier label, and the harmful zone never below it.
    """
    lowest = min(
        (
            UNREACHABLE if (found := false_open_threshold(scores, units, false_open)) is None else found
            for scores, units in harmful.values()
        ),
        default=UNREACHABLE,
    )
    benign_below = min(lowest, 0.0)
    mirrored = false_open_threshold(-benign[0], benign[1], false_close)
    harmful_above = max(0.0 if mirrored is None else -mirrored, 0.0)
    return ZoneThresholds(benign_below=benign_below, harmful_above=harmful_above)


def zone_table(by_language: Mapping[str, ZoneThresholds]) -> ZoneTable:
    """Return the table with the most conservative thresholds as those of every other language."""
    benign_below = min(one.benign_below for one in by_language.values())
    harmful_above = min(one.harmful_above for one in by_language.values())
    return ZoneTable(dict(by_language), ZoneThresholds(benign_below, harmful_above))
