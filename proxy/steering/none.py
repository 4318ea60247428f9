"""The dialect of engines that cannot steer."""

from __future__ import annotations

from collections.abc import Mapping

from detectors.bundle import Steering
from proxy.answers import ChatAnswer


class NoSteering:
    """An engine that cannot steer."""

    can_steer = False
    reports = False
    shares_prefixes = False

    def expresses(self, steering: Steering) -> bool:
        """Return False, always."""
        return False

    def steered(self, payload: Mapping[str, object], steering: Steering) -> None:
        """Return None, always."""

    def did_steer(self, answer: ChatAnswer) -> bool:
        """Return False, always."""
        return False
