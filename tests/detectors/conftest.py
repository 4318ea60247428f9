"""A small, valid bundle that tests write, load and damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detectors import bundle_writer
from detectors.bundle import FloatArray
from detectors.manifest import (
    LanguageSteering,
    Manifest,
    ModelIdentity,
    ProbePosition,
    ProbeSpec,
    Provenance,
    SteeringForm,
    SteeringPlan,
    SteeringSpan,
    Validation,
    VectorSpec,
    Zones,
    ZoneTable,
    ZoneThresholds,
)

WIDTH = 6


@pytest.fixture
def manifest() -> Manifest:
    """A manifest with two languages, all three probes and answer zones."""
    return Manifest(
        created="2025-01-31",
        model=ModelIdentity("tiny", "0123456789abcdef", WIDTH, 5, "residual stream after block l, 0-based"),
        provenance=Provenance("build-vectors --seed 3", 3, "0.1.0", {"selection": 40, "report": 60}),
        languages=("en", "zh"),
        vectors={
            "refusal-en": VectorSpec("refusal-en", "en", (2,), 3.125, 0.1),
            "refusal-zh": VectorSpec("refusal-zh", "zh", (1, 2), 2.7, -0.25),
        },
        steering=SteeringPlan(
            SteeringForm.ADD,
            SteeringSpan.ONWARD,
            (0.5, 1.0, 2.0),
            {"en": LanguageSteering("refusal-en", 2.0, 0.5), "zh": LanguageSteering("refusal-zh", 1.0, None)},
        ),
        probes={
            "h": ProbeSpec((2, 3), ProbePosition.ANSWER_START),
            "rho": ProbeSpec((3,), ProbePosition.TEMPLATE_END),
            "answer_h": ProbeSpec((4,), ProbePosition.QUESTION_END),
        },
        zones=Zones(
            0.01,
            ZoneTable({"en": ZoneThresholds(-2.0, 1.0)}, ZoneThresholds(-4.0, 0.0)),
            ZoneTable({}, ZoneThresholds(-1.0, 1.0)),
        ),
        limits={"max_false_open": 0.01},
        validation=Validation(True, "report", {"orr": {"value": 0.05, "low": 0.03, "high": 0.08}}),
        questions={"de": "War das schädlich?", "en": "Was it harmful?"},
    )


@pytest.fixture
def vectors() -> dict[str, FloatArray]:
    """Unit directions for the manifest's two vectors."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(3, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return {"refusal-en": rows[:1].astype(np.float32), "refusal-zh": rows[1:].astype(np.float32)}


@pytest.fixture
def probes() -> dict[str, tuple[FloatArray, float]]:
    """Weights for the manifest's three probes."""
    generator = np.random.default_rng(1)
    sizes = {"h": 2 * WIDTH, "rho": WIDTH, "answer_h": WIDTH}
    return {name: (generator.normal(size=size).astype(np.float32), 0.25) for name, size in sizes.items()}


@pytest.fixture
def write_bundle(
    vectors: dict[str, FloatArray], probes: dict[str, tuple[FloatArray, float]]
) -> Callable[[Path, Manifest], str]:
    """Write a bundle with the fixtures' arrays and return its digest."""

    def write(path: Path, manifest: Manifest) -> str:
        return bundle_writer.write(path, manifest, vectors=vectors, probes=probes, card="# Card\n")

    return write
