"""On which side of the safety boundary a request lies, from the served model's own activations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detectors.bundle import Bundle
from detectors.coordinates import CoordinateReader, NotRead, read_within
from detectors.verdict import BoundaryReading, Message, Zone


class ActivationBoundary:
    """Reads h and rho through ``reader`` and turns h into a zone with the bundle's thresholds.

    A ``BoundaryDetector``. The whole conversation is judged: the served model gives the largest h of its user turns.
    """

    def __init__(self, reader: CoordinateReader, bundle: Bundle, *, timeout_s: float) -> None:
        self._reader = reader
        self._bundle = bundle
        self._timeout_s = timeout_s

    async def read(self, messages: Sequence[Message], *, model: str, language: str) -> BoundaryReading:
        """Return the reading. A language without thresholds of its own gets the bundle's most conservative ones.

        Zone ``UNKNOWN`` with the reason when the coordinates are late, missing, not finite or of another bundle.
        """
        coordinates = await read_within(
            self._reader,
            model,
            messages,
            timeout_s=self._timeout_s,
            bundle=self._bundle.digest,
            question=self._bundle.question(language) if self._bundle.asks_about_requests else None,
        )
        if isinstance(coordinates, NotRead):
            return BoundaryReading(Zone.UNKNOWN, None, None, coordinates.reason)
        zone = self._bundle.zone(coordinates.h, language)
        if zone is Zone.UNKNOWN:
            return BoundaryReading(Zone.UNKNOWN, None, None, "the served model gave no finite harm coordinate")
        rho = coordinates.rho if coordinates.rho is not None and math.isfinite(coordinates.rho) else None
        thresholds = language if language in self._bundle.manifest.zones.requests.by_language else "default"
        return BoundaryReading(zone, coordinates.h, rho, f"harm coordinate, {thresholds} thresholds")
