"""The steering dialects, and what the engine behind each can express.

A vector was validated in one form, over one span. An engine that can only do something else with it is not given it:
what it did would be neither what was measured nor visible in its answers. Both sides of the bridge ask here: the
pipeline before it searches or exports for an engine, the proxy before it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from detectors.manifest import Manifest, SteeringForm, SteeringSpan


class DialectName(StrEnum):
    """The dialects that settings can name."""

    NATIVE = "native"
    VLLM_LENS = "vllm-lens"
    HOTWIRE = "hotwire"
    PAIR = "pair"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Expressible:
    """What an engine can be told: the forms, the spans, and the first layer (0-based) that it can steer."""

    forms: tuple[SteeringForm, ...]
    spans: tuple[SteeringSpan, ...]
    first_layer: int = 0


_ADDED_EVERYWHERE = Expressible((SteeringForm.ADD,), (SteeringSpan.EVERY_TOKEN,))

EXPRESSIBLE: Mapping[DialectName, Expressible] = {
    DialectName.NATIVE: Expressible(tuple(SteeringForm), tuple(SteeringSpan)),
    # vllm-lens can add at listed positions too, but only the engine knows at which position a chat template ends.
    DialectName.VLLM_LENS: _ADDED_EVERYWHERE,
    DialectName.HOTWIRE: _ADDED_EVERYWHERE,
    # A llama.cpp control vector holds no row for block 0.
    DialectName.PAIR: Expressible((SteeringForm.ADD,), (SteeringSpan.EVERY_TOKEN,), first_layer=1),
    DialectName.NONE: Expressible((), ()),
}


def why_inexpressible(manifest: Manifest, dialect: DialectName) -> str | None:
    """Return a sentence that says what of a bundle's steering ``dialect`` cannot express, or ``None``."""
    can = EXPRESSIBLE[dialect]
    plan = manifest.steering
    if not can.forms:
        return f"dialect {dialect} cannot steer"
    if plan.form not in can.forms:
        return f"dialect {dialect} can express the form {_listed(can.forms)} only, and the bundle steers by {plan.form}"
    if plan.span not in can.spans:
        return f"dialect {dialect} can express the span {_listed(can.spans)} only, and the bundle steers {plan.span}"
    for name, vector in manifest.vectors.items():
        if min(vector.layers) < can.first_layer:
            return (
                f"dialect {dialect} can steer layers from {can.first_layer} on, and vector {name!r} acts on layer "
                f"{min(vector.layers)}"
            )
    return None


def _listed(values: tuple[StrEnum, ...]) -> str:
    return " or ".join(values)
