"""From directions to steered batches: which vector, where, how strongly, for each row.

The scale of a vector is the distance between refused and answered benign requests along it, so strength 1 moves the
mean of the ones onto the mean of the others in every model and at every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from detectors.bundle import Bundle, Steering
from detectors.manifest import SteeringForm, SteeringSpan
from rass.hooks import Direction, RowSteering
from rass.model import FloatArray
from rass.vectors import SteeringVectors

__all__ = ["SteeringConfig", "Vector", "VectorKind", "bundle_rows", "config_rows", "vector_of"]

VectorKind = Literal["refusal", "refusal_orthogonal"]


@dataclass(frozen=True, slots=True)
class SteeringConfig:
    """Where and how every row is steered: what the search chooses once for all languages."""

    layer: int
    kind: VectorKind
    form: SteeringForm
    span: SteeringSpan

    @property
    def label(self) -> str:
        """The configuration in a few words."""
        return f"layer {self.layer}, {self.kind}, {self.form.value}, {self.span.value}"


@dataclass(frozen=True, slots=True)
class Vector:
    """A unit direction ``[d]`` with the scale of strength 1 and the projection that ablation moves towards."""

    unit: FloatArray
    scale: float
    mean_projection: float


def vector_of(vectors: SteeringVectors, language: str, config: SteeringConfig) -> Vector:
    """Return a language's vector at the configuration's layer."""
    directions = vectors.by_language[language]
    contrast = getattr(directions, config.kind)[config.layer]
    unit = contrast / np.linalg.norm(contrast)
    return Vector(
        unit.astype(np.float32),
        scale=float(directions.refusal[config.layer] @ unit),
        mean_projection=float(directions.answered[config.layer] @ unit),
    )


def config_rows(
    vectors: SteeringVectors, config: SteeringConfig, languages: Sequence[str], strengths: Sequence[float]
) -> RowSteering:
    """Return the steering of a batch whose rows have these languages and strengths."""
    known = {language: vector_of(vectors, language, config) for language in set(languages)}
    return _rows(config.form, config.span, config.layer, [known[language] for language in languages], strengths)


def bundle_rows(bundle: Bundle, steerings: Sequence[Steering]) -> RowSteering:
    """Return the steering of a batch exactly as the served model reads it from the bundle."""
    plan = bundle.manifest.steering
    vectors: list[Vector] = []
    layers: set[tuple[int, ...]] = set()
    for steering in steerings:
        name = bundle.vector_name(steering.vector_id)
        spec = bundle.vector_spec(name)
        layers.add(spec.layers)
        vectors.append(Vector(bundle.vector_array(name)[0], spec.scale, spec.mean_projection))
    if len(layers) != 1 or len(next(iter(layers))) != 1:
        raise ValueError(f"the vectors of one plan must steer one common layer, found {sorted(layers)}")
    layer = next(iter(layers))[0]
    return _rows(plan.form, plan.span, layer, vectors, [steering.strength for steering in steerings])


def _rows(
    form: SteeringForm, span: SteeringSpan, layer: int, vectors: Sequence[Vector], strengths: Sequence[float]
) -> RowSteering:
    amounts = [
        strength * (vector.scale if form is SteeringForm.ADD else 1.0)
        for vector, strength in zip(vectors, strengths, strict=True)
    ]
    direction = Direction(
        unit=torch.from_numpy(np.stack([vector.unit for vector in vectors])),
        amount=torch.tensor(amounts, dtype=torch.float32),
        centre=torch.tensor([vector.mean_projection for vector in vectors], dtype=torch.float32),
    )
    return RowSteering(form, span, {layer: direction})
