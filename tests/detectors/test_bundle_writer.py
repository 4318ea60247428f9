"""Writing is all or nothing, and refuses what could not be loaded again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detectors import bundle_writer
from detectors.bundle import BundleError, FloatArray, load
from detectors.manifest import Manifest

WriteBundle = Callable[[Path, Manifest], str]
Probes = dict[str, tuple[FloatArray, float]]


def test_replaces_a_bundle(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    write_bundle(tmp_path / "deep" / "bundle", manifest)
    digest = write_bundle(tmp_path / "deep" / "bundle", replace(manifest, created="2025-02-01"))
    assert load(tmp_path / "deep" / "bundle").digest == digest
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["bundle"]


def test_leaves_other_folders_alone(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="is no bundle"):
        write_bundle(tmp_path / "mine", manifest)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def _longer(array: FloatArray) -> FloatArray:
    return (array * 2).astype(np.float32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_longer, "unit length"),
        (lambda array: array[:, :-1], "must be float32"),
        (lambda array: array.astype(np.float64), "must be float32"),
        (lambda array: array * np.nan, "not finite"),
    ],
)
def test_refuses_wrong_vectors(
    tmp_path: Path,
    manifest: Manifest,
    vectors: dict[str, FloatArray],
    probes: Probes,
    damage: Callable[[FloatArray], FloatArray],
    message: str,
) -> None:
    vectors["refusal-en"] = damage(vectors["refusal-en"])
    with pytest.raises(BundleError, match=message):
        bundle_writer.write(tmp_path / "bundle", manifest, vectors=vectors, probes=probes, card="")
    assert list(tmp_path.iterdir()) == []


def test_refuses_missing_and_surplus_tensors(
    tmp_path: Path, manifest: Manifest, vectors: dict[str, FloatArray], probes: Probes
) -> None:
    surplus = {**vectors, "refusal-fr": vectors["refusal-en"]}
    with pytest.raises(BundleError, match="'refusal-fr' is not described"):
        bundle_writer.write(tmp_path / "bundle", manifest, vectors=surplus, probes=probes, card="")
    del probes["rho"]
    with pytest.raises(BundleError, match=r"'rho\.(weight|bias)' is missing"):
        bundle_writer.write(tmp_path / "bundle", manifest, vectors=vectors, probes=probes, card="")
