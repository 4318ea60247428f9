"""What the search for steering has found: the configuration, a strength for each language, and the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rass.steering import SteeringConfig

__all__ = ["CurvePoint", "Dose", "StrengthChoice"]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What one strength does in one language: shares of recoverable requests and of attacks, and the gated leak.

    ``gated_leak`` is the share of harmful base requests that pass the gate's zone *and* are answered at this strength.
    """

    strength: float
    on_topic: float
    answered: float
    attacks_answered: float
    attacks_on_topic: float
    gated_leak: float


@dataclass(frozen=True, slots=True)
class Dose:
    """A configuration at one strength."""

    config: SteeringConfig
    strength: float


@dataclass(frozen=True, slots=True)
class StrengthChoice:
    """The chosen configuration, each language's strength, and the evidence.

    ``provocations`` are what got most of each language's attacks answered on topic, for measuring alone. ``flip_cap``
    is the 5th percentile of alpha* over each language's attacks (``None``: fewer than 5 % ever flip), and ``control``
    the palette strength at which most attacks are answered on topic, for the positive control.
    """

    config: SteeringConfig
    by_language: Mapping[str, float]
    control: float
    provocations: Mapping[str, Dose]
    curve: Mapping[str, tuple[CurvePoint, ...]]
    flip_cap: Mapping[str, float | None]
    flip_median: Mapping[str, float | None]
    screened: Mapping[str, float]
