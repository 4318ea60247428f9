"""What the generation thread must know about one row: where to steer it, where to read it, how to sample it.

A plan speaks of absolute positions in the row's sequence, never of places in a batch. So it stays true however the
scheduler cuts the prompt into chunks, and when a row is prefilled a second time after an eviction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

import torch

from detectors.manifest import SteeringSpan

__all__ = ["Push", "RowPlan", "RowSampling", "Tap"]


@dataclass(frozen=True, slots=True)
class Push:
    """A change of the residual stream after block ``layer``: x ← x - (constant + slope·(x·v))·v.

    ``direction`` is the row of the direction bank that holds the unit vector v. Both forms of steering are this map:
    add has constant = strength·scale and slope 0; ablate has constant = -strength·mean_projection and slope = strength.
    """

    layer: int
    direction: int
    constant: float
    slope: float


@dataclass(frozen=True, slots=True)
class Tap:
    """A reading after block ``layer`` at ``position``: the dot product with row ``weight`` of the probe bank.

    ``slot`` joins the taps of one coordinate at one position; a coordinate is the sum over its layers, plus the bias.
    """

    layer: int
    position: int
    weight: int
    slot: int


@dataclass(slots=True)
class RowSampling:
    """How one row's next token is chosen. The generator is the row's own, so a seed holds in any company."""

    temperature: float
    top_p: float
    generator: torch.Generator


@dataclass(slots=True)
class RowPlan:
    """The plan of one row. ``sampling`` is ``None`` for greedy decoding.

    ``values`` is filled by the generation thread, ``(slot, layer) → dot product``, and complete once the first token
    of the row is delivered.
    """

    prompt_length: int
    pushes: tuple[Push, ...] = ()
    span: SteeringSpan = SteeringSpan.ONWARD
    taps: tuple[Tap, ...] = ()
    sampling: RowSampling | None = None
    values: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def steering_start(self) -> int:
        """The first steered position: the last token of the prompt, generation prompt included."""
        return self.prompt_length - 1

    def steered(self, first: int, count: int) -> range:
        """Return the steered positions among the ``count`` positions from ``first`` on."""
        end = first + count
        match self.span:
            case SteeringSpan.EVERY_TOKEN:
                return range(first, end)
            case SteeringSpan.ONWARD:
                return range(max(first, self.steering_start), end)
            case SteeringSpan.LAST_PROMPT_TOKEN:
                return range(max(first, self.steering_start), min(end, self.steering_start + 1))
            case _:
                assert_never(self.span)
