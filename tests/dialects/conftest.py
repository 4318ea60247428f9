"""The engines' real packages, unpacked without their engines by ``make test-dialects``; a bundle to send them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from detectors import bundle_writer
from detectors.bundle import Bundle, load
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

WIDTH, LAYERS = 8, 5
PACKAGES = Path(os.environ.get("RASS_DIALECT_PACKAGES", Path(__file__).parents[2] / "build" / "dialects"))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of an unpacked package, or skip the test with the reason."""

    def load_module(name: str) -> ModuleType:
        if not (PACKAGES / name.split(".")[0]).is_dir():
            pytest.skip(f"{PACKAGES} holds no {name.split('.')[0]}; `make test-dialects` fetches the engines' packages")
        monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
        return importlib.import_module(name)

    return load_module


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle that adds at every token: English on one layer, Chinese on two."""
    rows = np.random.default_rng(7).normal(size=(3, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weight = np.ones(WIDTH, dtype=np.float32)
    manifest = Manifest(
        created="2025-01-31",
        model=ModelIdentity("tiny", "r1", WIDTH, LAYERS, "residual stream after block l, 0-based"),
        provenance=Provenance("build-vectors --dialect hotwire --seed 3", 3, "0.1.0", {"selection": 40}),
        languages=("en", "zh"),
        vectors={
            "refusal-en": VectorSpec("refusal-en", "en", (2,), 3.0, 0.1),
            "refusal-zh": VectorSpec("refusal-zh", "zh", (1, 3), 2.5, -0.25),
        },
        steering=SteeringPlan(
            SteeringForm.ADD,
            SteeringSpan.EVERY_TOKEN,
            (0.5, 1.0, 2.0),
            {"en": LanguageSteering("refusal-en", 2.0, 0.5), "zh": LanguageSteering("refusal-zh", 1.0, None)},
        ),
        probes={
            "h": ProbeSpec((2,), ProbePosition.ANSWER_START),
            "answer_h": ProbeSpec((4,), ProbePosition.QUESTION_END),
        },
        zones=Zones(0.01, ZoneTable({}, ZoneThresholds(-4.0, 0.0)), ZoneTable({}, ZoneThresholds(-1.0, 1.0))),
        limits={},
        validation=Validation(True, "report", {}),
        questions={"en": "Was it harmful?", "zh": "这有害吗？"},
    )
    vectors = {"refusal-en": rows[:1].astype(np.float32), "refusal-zh": rows[1:].astype(np.float32)}
    probes = {"h": (weight, 0.0), "answer_h": (weight, 0.0)}
    bundle_writer.write(tmp_path / "bundle", manifest, vectors=vectors, probes=probes, card="# Card\n")
    return load(tmp_path / "bundle")
