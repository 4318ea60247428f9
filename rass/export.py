"""From what the stages chose to a bundle: manifest, arrays and card; refused when validation failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detectors.bundle import FloatArray
from detectors.bundle_writer import write
from detectors.manifest import (
    PROBE_POSITIONS,
    LanguageSteering,
    Manifest,
    ModelIdentity,
    ProbeSpec,
    Provenance,
    SteeringPlan,
    Validation,
    VectorSpec,
    Zones,
    ZoneTable,
)
from rass.card import render_card
from rass.errors import ValidationRefused
from rass.probe import LinearProbe
from rass.questions import question_for
from rass.steering import vector_of
from rass.strength_choice import StrengthChoice
from rass.validate import Limits, ValidationReport
from rass.vectors import SteeringVectors

__all__ = ["BundleParts", "assemble", "export", "write_candidate"]


@dataclass(frozen=True, slots=True)
class BundleParts:
    """A bundle before it is written: its manifest, not yet validated, and its arrays."""

    manifest: Manifest
    vectors: Mapping[str, FloatArray]
    probes: Mapping[str, tuple[FloatArray, float]]


def assemble(
    *,
    model: ModelIdentity,
    provenance: Provenance,
    created: str,
    vectors: SteeringVectors,
    choice: StrengthChoice,
    palette: tuple[float, ...],
    probes: Mapping[str, LinearProbe],
    asked_share: float | None,
    requests: ZoneTable,
    answers: ZoneTable,
    limits: Limits,
) -> BundleParts:
    """Put the results of the stages into the bundle's form, marked as not validated."""
    specs: dict[str, VectorSpec] = {}
    arrays: dict[str, FloatArray] = {}
    steering: dict[str, LanguageSteering] = {}
    for language, strength in sorted(choice.by_language.items()):
        name = f"refusal-{language}"
        vector = vector_of(vectors, language, choice.config)
        specs[name] = VectorSpec(name, language, (choice.config.layer,), vector.scale, vector.mean_projection)
        arrays[name] = vector.unit[None, :]
        steering[language] = LanguageSteering(name, benign=strength, band=None)
    manifest = Manifest(
        created=created,
        model=model,
        provenance=provenance,
        languages=tuple(sorted(requests.by_language)),
        vectors=specs,
        steering=SteeringPlan(choice.config.form, choice.config.span, palette, steering),
        probes={
            name: ProbeSpec(probe.layers, PROBE_POSITIONS[name], asked_share if name == "asked_h" else None)
            for name, probe in probes.items()
        },
        zones=Zones(limits.false_open, requests, answers),
        limits=limits.to_json(),
        validation=Validation(passed=False, split="", figures={}),
        questions={language: question_for(language) for language in (*sorted(requests.by_language), "en")},
    )
    weights = {name: (probe.weight.astype(np.float32), probe.bias) for name, probe in probes.items()}
    return BundleParts(manifest, arrays, weights)


def write_candidate(parts: BundleParts, folder: Path) -> None:
    """Write the bundle for validation only: marked as not validated, it is refused by everything that serves."""
    write(
        folder, parts.manifest, vectors=parts.vectors, probes=parts.probes, card="A candidate that is not validated.\n"
    )


def export(parts: BundleParts, report: ValidationReport, choice: StrengthChoice, split: str, folder: Path) -> str:
    """Write the validated bundle to ``folder`` and return its digest.

    Raises ``ValidationRefused`` with the reasons, and writes nothing, when validation failed.
    """
    if not report.passed:
        raise ValidationRefused(report.reasons)
    figures = {**report.to_json(), "strength_curve": _curve(choice), "flip_cap": dict(choice.flip_cap)}
    manifest = replace(parts.manifest, validation=Validation(passed=True, split=split, figures=figures))
    card = render_card(manifest, report, choice)
    return write(folder, manifest, vectors=parts.vectors, probes=parts.probes, card=card)


def _curve(choice: StrengthChoice) -> dict[str, list[dict[str, float]]]:
    """Return the trade-off curve by language, a row a strength."""
    return {
        language: [{name: getattr(point, name) for name in point.__slots__} for point in points]
        for language, points in choice.curve.items()
    }
