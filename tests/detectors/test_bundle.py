"""A bundle round-trips exactly, and everything that is not exactly it is refused."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors import bundle_writer
from detectors.bundle import BundleError, FloatArray, ModelMismatch, Steering, load
from detectors.manifest import MANIFEST_NAME, Manifest, Validation
from detectors.verdict import Zone

WriteBundle = Callable[[Path, Manifest], str]
FILES = ("card.md", "manifest.json", "probe.safetensors", "vectors.safetensors")


def test_round_trip_is_exact(
    tmp_path: Path,
    manifest: Manifest,
    vectors: dict[str, FloatArray],
    probes: dict[str, tuple[FloatArray, float]],
    write_bundle: WriteBundle,
) -> None:
    digest = write_bundle(tmp_path / "bundle", manifest)
    bundle = load(tmp_path / "bundle")
    assert bundle.digest == digest
    assert bundle.manifest.with_files({}) == manifest
    for name, array in vectors.items():
        assert np.array_equal(bundle.vector_array(name), array)
    for name, (weight, bias) in probes.items():
        loaded_weight, loaded_bias = bundle.probe(name)
        assert np.array_equal(loaded_weight, weight)
        assert loaded_bias == bias
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == list(FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_same_content_gives_the_same_digest(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    assert write_bundle(tmp_path / "a", manifest) == write_bundle(tmp_path / "b", manifest)


def test_digest_is_of_the_manifest_bytes(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    digest = write_bundle(tmp_path / "bundle", manifest)
    assert hashlib.sha256((tmp_path / "bundle" / MANIFEST_NAME).read_bytes()).hexdigest()[:16] == digest


def test_arrays_are_read_only(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    write_bundle(tmp_path / "bundle", manifest)
    with pytest.raises(ValueError, match="read-only"):
        load(tmp_path / "bundle").vector_array("refusal-en")[0, 0] = 1.0


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.sampled_from([name for name in FILES if name != MANIFEST_NAME]), where=st.randoms(), bit=st.integers(0, 7)
)
def test_any_flipped_bit_of_a_listed_file_is_refused(
    manifest: Manifest, write_bundle: WriteBundle, name: str, where: object, bit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle")
        write_bundle(path, manifest)
        _flip(path / name, where.randrange((path / name).stat().st_size), bit)  # type: ignore[attr-defined]
        with pytest.raises(BundleError, match=name):
            load(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.randoms(), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_manifest_is_refused_or_changes_the_digest(
    manifest: Manifest, write_bundle: WriteBundle, where: object, bit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle")
        digest = write_bundle(path, manifest)
        _flip(path / MANIFEST_NAME, where.randrange((path / MANIFEST_NAME).stat().st_size), bit)  # type: ignore[attr-defined]
        try:
            loaded = load(path)
        except BundleError:
            return
        assert loaded.digest != digest


@pytest.mark.parametrize("name", FILES)
def test_missing_file(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle, name: str) -> None:
    write_bundle(tmp_path / "bundle", manifest)
    (tmp_path / "bundle" / name).unlink()
    with pytest.raises(BundleError, match=name):
        load(tmp_path / "bundle")


def test_extra_file(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    write_bundle(tmp_path / "bundle", manifest)
    (tmp_path / "bundle" / "surplus.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"surplus\.bin is not listed"):
        load(tmp_path / "bundle")


def test_link_and_folder_inside(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    write_bundle(tmp_path / "bundle", manifest)
    link = tmp_path / "bundle" / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(BundleError, match="not a plain file"):
        load(tmp_path / "bundle")
    link.unlink()
    link.mkdir()
    with pytest.raises(BundleError, match="not a plain file"):
        load(tmp_path / "bundle")


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["../card.md", "/etc/passwd", "a/b", "..", "", "a\\b", "x\n", MANIFEST_NAME])
def test_names_that_escape_the_folder(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle, name: str) -> None:
    write_bundle(tmp_path / "bundle", manifest)
    _edit(tmp_path / "bundle", lambda fields: fields["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match="files"):
        load(tmp_path / "bundle")


def test_unvalidated_is_refused_unless_allowed(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    write_bundle(tmp_path / "bundle", replace(manifest, validation=Validation(False, "report", {})))
    with pytest.raises(BundleError, match="did not pass validation"):
        load(tmp_path / "bundle")
    assert not load(tmp_path / "bundle", allow_unvalidated=True).manifest.validation.passed


def test_another_model_is_refused(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    write_bundle(tmp_path / "bundle", manifest)
    bundle = load(tmp_path / "bundle")
    own = manifest.model
    bundle.check_model(own.id, own.revision, own.hidden_size, own.num_layers)
    for wrong in (
        ("other", own.revision, own.hidden_size, own.num_layers),
        (own.id, "f" * 16, own.hidden_size, own.num_layers),
        (own.id, own.revision, own.hidden_size + 1, own.num_layers),
        (own.id, own.revision, own.hidden_size, own.num_layers + 1),
    ):
        with pytest.raises(ModelMismatch, match="was measured on a model with"):
            bundle.check_model(*wrong)


@pytest.mark.parametrize(
    ("h", "language", "zone"),
    [
        (-2.5, "en", Zone.BENIGN),
        (-2.0, "en", Zone.BAND),
        (1.0, "en", Zone.BAND),
        (1.5, "en", Zone.HARMFUL),
        (-2.5, "zh", Zone.BAND),  # no thresholds of its own: the most conservative ones
        (0.5, "xx", Zone.HARMFUL),
        (None, "en", Zone.UNKNOWN),
        (math.nan, "en", Zone.UNKNOWN),
        (-math.inf, "en", Zone.UNKNOWN),
        (math.inf, "en", Zone.UNKNOWN),
    ],
)
def test_zone(
    tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle, h: float | None, language: str, zone: Zone
) -> None:
    write_bundle(tmp_path / "bundle", manifest)
    assert load(tmp_path / "bundle").zone(h, language) is zone


def test_answer_zone_and_its_absence(
    tmp_path: Path,
    manifest: Manifest,
    vectors: dict[str, FloatArray],
    probes: dict[str, tuple[FloatArray, float]],
    write_bundle: WriteBundle,
) -> None:
    write_bundle(tmp_path / "with", manifest)
    assert load(tmp_path / "with").answer_zone(-1.5, "en") is Zone.BENIGN
    del probes["answer_h"]
    fewer = {name: probe for name, probe in manifest.probes.items() if name != "answer_h"}
    without = replace(manifest, probes=fewer, zones=replace(manifest.zones, answers=None))
    bundle_writer.write(tmp_path / "without", without, vectors=vectors, probes=probes, card="")
    assert load(tmp_path / "without").answer_zone(-1.5, "en") is Zone.UNKNOWN


def test_question_in_the_language_or_in_english(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    write_bundle(tmp_path / "both", manifest)
    both = load(tmp_path / "both")
    assert both.question("de") == "War das schädlich?"
    assert both.question("fr") == "Was it harmful?"
    write_bundle(tmp_path / "german", replace(manifest, questions={"de": "War das schädlich?"}))
    assert load(tmp_path / "german").question("fr") == "War das schädlich?"


def test_steering_by_language_and_zone(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    digest = write_bundle(tmp_path / "bundle", manifest)
    bundle = load(tmp_path / "bundle")
    assert bundle.steering("en", Zone.BENIGN) == Steering(f"refusal-en@{digest}", 2.0)
    assert bundle.steering("en", Zone.BAND) == Steering(f"refusal-en@{digest}", 0.5)
    assert bundle.steering("zh", Zone.BAND) is None
    assert bundle.steering("fr", Zone.BENIGN) is None
    for zone in (Zone.HARMFUL, Zone.UNKNOWN):
        assert bundle.steering("en", zone) is None


def test_vector_ids(tmp_path: Path, manifest: Manifest, write_bundle: WriteBundle) -> None:
    digest = write_bundle(tmp_path / "bundle", manifest)
    bundle = load(tmp_path / "bundle")
    assert bundle.vector_id("refusal-en") == f"refusal-en@{digest}"
    assert bundle.vector_name(f"refusal-en@{digest}") == "refusal-en"
    for bad in ("refusal-en", f"refusal-en@{'0' * 16}", f"nothing@{digest}", "", "@"):
        with pytest.raises(BundleError):
            bundle.vector_name(bad)
    with pytest.raises(BundleError, match="has no probe 'g'"):
        bundle.probe("g")


def _flip(path: Path, index: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[index] ^= 1 << bit
    path.write_bytes(data)


def _edit(folder: Path, change: Callable[[dict[str, dict[str, str]]], None]) -> None:
    fields = json.loads((folder / MANIFEST_NAME).read_text())
    change(fields)
    (folder / MANIFEST_NAME).write_text(json.dumps(fields))
