"""From a calibrated logit to a zone, the same way for every kind of detector."""

from __future__ import annotations

import math

from detectors.manifest import ZoneTable, ZoneThresholds
from detectors.verdict import BoundaryReading, Zone

__all__ = ["NOTHING_IS_BENIGN", "unknown", "zone_of", "zone_reading"]

NOTHING_IS_BENIGN = ZoneTable({}, ZoneThresholds(benign_below=-1e6, harmful_above=1e6))
"""Thresholds of a detector that nobody calibrated: everything lies in the band."""


def zone_of(table: ZoneTable, h: float | None, language: str) -> Zone:
    """Return the zone of logit ``h``; a missing or non-finite one is ``UNKNOWN``.

    A language without thresholds of its own gets the table's default ones.
    """
    if h is None or not math.isfinite(h):
        return Zone.UNKNOWN
    thresholds = table.by_language.get(language, table.default)
    if h < thresholds.benign_below:
        return Zone.BENIGN
    return Zone.HARMFUL if h > thresholds.harmful_above else Zone.BAND


def zone_reading(table: ZoneTable, h: float, language: str, *, complete: bool, how: str) -> BoundaryReading:
    """Return the reading of ``h``; ``how`` says in a few words how it was come by.

    What was not read to its end is never called benign: ``complete=False`` moves it into the band.
    """
    zone = zone_of(table, h, language)
    if zone is Zone.UNKNOWN:
        return unknown("the detector gave no finite logit")
    known = language if language in table.by_language else "default"
    if zone is Zone.BENIGN and not complete:
        return BoundaryReading(Zone.BAND, h, None, f"{how}, too long to be read whole")
    return BoundaryReading(zone, h, None, f"{how}, {known} thresholds")


def unknown(reason: str) -> BoundaryReading:
    """Return a reading of zone ``UNKNOWN`` with its reason."""
    return BoundaryReading(Zone.UNKNOWN, None, None, reason)
