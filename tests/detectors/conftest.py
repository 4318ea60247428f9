"""A small, valid bundle that tests write, load and damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detectors import bundle_writer
from detectors.bundle import FloatArray
from detectors.manifest import Manifest


@pytest.fixture
def manifest(make_manifest: Callable[..., Manifest]) -> Manifest:
    """A manifest with two languages, three probes and answer zones."""
    return make_manifest()


@pytest.fixture
def vectors(
    manifest: Manifest, draw_directions: Callable[[Manifest, np.random.Generator], dict[str, FloatArray]]
) -> dict[str, FloatArray]:
    """Unit directions for the manifest's two vectors."""
    return draw_directions(manifest, np.random.default_rng(0))


@pytest.fixture
def probes(manifest: Manifest) -> dict[str, tuple[FloatArray, float]]:
    """Weights for the manifest's three probes."""
    generator = np.random.default_rng(1)
    sizes = {name: len(spec.layers) * manifest.model.hidden_size for name, spec in manifest.probes.items()}
    return {name: (generator.normal(size=size).astype(np.float32), 0.25) for name, size in sizes.items()}


@pytest.fixture
def write_bundle(
    vectors: dict[str, FloatArray], probes: dict[str, tuple[FloatArray, float]]
) -> Callable[[Path, Manifest], str]:
    """Write a bundle with the fixtures' arrays and return its digest."""

    def write(path: Path, manifest: Manifest) -> str:
        return bundle_writer.write(path, manifest, vectors=vectors, probes=probes, card="# Card\n")

    return write
