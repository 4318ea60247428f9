"""Bundles: what the offline pipeline exports and the proxy and the served model read.

A bundle is a folder with `manifest.json`, `vectors.safetensors`, `probe.safetensors` and `card.md`. Every file but the
manifest is listed there with its sha256, and the manifest's own sha256 (first 16 hex digits) is the bundle's digest,
which every vector id carries. So one digest names one exact set of bytes, and a file that was added, removed or changed
is refused with a sentence that says which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from detectors.boundary_zones import zone_of
from detectors.coordinates import request_coordinates
from detectors.manifest import (
    MANIFEST_NAME,
    PROBE_NAME,
    REQUIRED_FILES,
    VECTORS_NAME,
    Manifest,
    ManifestError,
    SteeringForm,
    VectorSpec,
)
from detectors.manifest_json import parse
from detectors.verdict import Zone

FloatArray = npt.NDArray[np.float32]

_UNIT_TOLERANCE = 1e-3  # float32 rows normalised in float64 land within 1e-6; this refuses what was never normalised
_DIGEST_LENGTH = 16


class BundleError(Exception):
    """A bundle cannot be used; the message says what is wrong with it and what to do."""


class ModelMismatch(BundleError):
    """A bundle was measured on another model than the one that is served."""


@dataclass(frozen=True, slots=True)
class Steering:
    """One recovery by steering: the vector's wire id and its strength."""

    vector_id: str
    strength: float


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded, verified bundle. Arrays are read-only."""

    path: Path
    digest: str
    manifest: Manifest
    _vectors: dict[str, FloatArray] = field(repr=False)
    _probes: dict[str, tuple[FloatArray, float]] = field(repr=False)

    def check_model(self, model_id: str, revision: str, hidden_size: int, num_layers: int) -> None:
        """Raise ``ModelMismatch`` unless the served model is the one that this bundle was measured on."""
        own = self.manifest.model
        pairs = (
            ("id", own.id, model_id),
            ("revision", own.revision, revision),
            ("hidden size", own.hidden_size, hidden_size),
            ("number of layers", own.num_layers, num_layers),
        )
        for what, expected, found in pairs:
            if expected != found:
                raise ModelMismatch(
                    f"bundle {self.path} was measured on a model with {what} {expected!r}, the served model has "
                    f"{found!r}; serve {own.id!r} or build a bundle for this model with build-vectors"
                )

    def zone(self, h: float | None, language: str) -> Zone:
        """Return the zone of a request with harm coordinate ``h``; a missing or non-finite one is ``UNKNOWN``."""
        return zone_of(self.manifest.zones.requests, h, language)

    def answer_zone(self, h: float | None, language: str) -> Zone:
        """Return the zone of an answer with coordinate ``h``; ``UNKNOWN`` where the bundle judges no answers."""
        table = self.manifest.zones.answers
        return Zone.UNKNOWN if table is None else zone_of(table, h, language)

    @property
    def asks_about_requests(self) -> bool:
        """True where h of a request needs the question: it is then a mean of what ``h`` and ``asked_h`` measure."""
        return "asked_h" in self.manifest.probes

    def request_h(self, turns: Sequence[float], asked_h: float | None) -> float | None:
        """Return h of a request from the logits of ``h``, one a user turn, and that of ``asked_h``.

        ``None`` where no turn was read, or where h needs an ``asked_h`` that is not there.
        """
        if not turns or (self.asks_about_requests and asked_h is None):
            return None
        one = np.zeros(len(turns), dtype=np.int64)
        asked = self.manifest.probes.get("asked_h")
        if asked is None or asked_h is None:
            return float(request_coordinates(np.array(turns), one)[0])
        return float(request_coordinates(np.array(turns), one, np.array([asked_h]), asked.share)[0])

    def question(self, language: str) -> str | None:
        """Return what the model is asked in ``language``: its own question, else the English or the first one."""
        questions = self.manifest.questions
        found = questions.get(language) or questions.get("en")
        return found if found is not None else next(iter(questions.values()), None)

    def steering(self, language: str, zone: Zone) -> Steering | None:
        """Return how to recover a request in ``zone``, or ``None`` where the bundle does not recover by steering.

        A language without a vector of its own is not recovered: a foreign direction answers in the wrong language.
        """
        entry = self.manifest.steering.by_language.get(language)
        strength = None
        if entry is not None and zone is Zone.BENIGN:
            strength = entry.benign
        elif entry is not None and zone is Zone.BAND:
            strength = entry.band
        if entry is None or strength is None:
            return None
        return Steering(self.vector_id(entry.vector), strength)

    def vector_id(self, name: str) -> str:
        """Return the id of vector ``name`` on the wire, which carries this bundle's digest."""
        self._vector_spec(name)
        return f"{name}@{self.digest}"

    def vector_name(self, vector_id: str) -> str:
        """Return the name behind a wire id.

        Raises ``BundleError`` when the id belongs to another bundle or names no vector of this one.
        """
        name, separator, digest = vector_id.partition("@")
        if not separator or digest != self.digest:
            raise BundleError(f"vector {vector_id!r} is not of bundle {self.digest}; use an id from the loaded bundle")
        self._vector_spec(name)
        return name

    def vector_spec(self, name: str) -> VectorSpec:
        """Return the description of vector ``name``; raises ``BundleError`` for an unknown one."""
        return self._vector_spec(name)

    def vector_array(self, name: str) -> FloatArray:
        """Return the ``[n_layers, d]`` unit directions of vector ``name``, row i for layer ``layers[i]``."""
        self._vector_spec(name)
        return self._vectors[name]

    def addition(self, name: str) -> FloatArray:
        """Return what strength 1 adds to the residual stream: ``-scale·v``, ``[n_layers, d]``, row i for ``layers[i]``.

        Raises ``BundleError`` for a bundle that does not steer by adding: nothing added stands for an ablation.
        """
        form = self.manifest.steering.form
        if form is not SteeringForm.ADD:
            raise BundleError(f"bundle {self.path} steers by {form}, which no added vector can express")
        array: FloatArray = np.float32(-self._vector_spec(name).scale) * self._vectors[name]
        return array

    def probe(self, name: str) -> tuple[FloatArray, float]:
        """Return ``(weight [n_layers·d], bias)`` of a probe: coordinate = x·weight + bias, a calibrated logit.

        ``x`` is the concatenation of the residual streams after the probe's layers, in the manifest's order.
        """
        if name not in self._probes:
            raise BundleError(f"bundle {self.path} has no probe {name!r}; it has {', '.join(sorted(self._probes))}")
        return self._probes[name]

    def _vector_spec(self, name: str) -> VectorSpec:
        spec = self.manifest.vectors.get(name)
        if spec is None:
            known = ", ".join(sorted(self.manifest.vectors)) or "none"
            raise BundleError(f"bundle {self.path} has no vector {name!r}; it has {known}")
        return spec


def load(path: Path | str, *, allow_unvalidated: bool = False) -> Bundle:
    """Load and verify the bundle in folder ``path``.

    Every byte is checked against the manifest before anything is parsed from it. ``allow_unvalidated`` is for the
    pipeline's own validation stage, which must load a bundle before it can pass it; nothing else sets it.

    Raises ``BundleError`` saying what is wrong and what to do.
    """
    folder = Path(path)
    data = _read_folder(folder)
    manifest_bytes = data.pop(MANIFEST_NAME)
    try:
        manifest = parse(manifest_bytes)
    except ManifestError as error:
        raise BundleError(f"{folder / MANIFEST_NAME}: {error}; {_REBUILD}") from error
    _check_files(folder, manifest, data)
    if not manifest.validation.passed and not allow_unvalidated:
        raise BundleError(f"bundle {folder} did not pass validation and must not be served; {_REBUILD}")
    vectors, probes = check_arrays(manifest, data[VECTORS_NAME], data[PROBE_NAME], folder)
    return Bundle(folder, digest_of(manifest_bytes), manifest, vectors, probes)


def digest_of(manifest_bytes: bytes) -> str:
    """Return a bundle's digest: the first 16 hex digits of its manifest's sha256."""
    return hashlib.sha256(manifest_bytes).hexdigest()[:_DIGEST_LENGTH]


def check_arrays(
    manifest: Manifest, vector_bytes: bytes, probe_bytes: bytes, folder: Path
) -> tuple[dict[str, FloatArray], dict[str, tuple[FloatArray, float]]]:
    """Parse both tensor files and check that they hold exactly what the manifest says.

    Raises ``BundleError`` for a missing or surplus tensor, a wrong shape or dtype, values that are not finite, or
    directions that are not of unit length.
    """
    width = manifest.model.hidden_size
    tensors = _parse_tensors(vector_bytes, folder / VECTORS_NAME)
    shapes: dict[str, tuple[int, ...]] = {spec.key: (len(spec.layers), width) for spec in manifest.vectors.values()}
    _check_shapes(tensors, shapes, folder / VECTORS_NAME)
    for key, tensor in tensors.items():
        lengths = np.linalg.norm(tensor.astype(np.float64), axis=1)
        if np.any(np.abs(lengths - 1.0) > _UNIT_TOLERANCE):
            raise BundleError(f"{folder / VECTORS_NAME}: the rows of {key!r} are not of unit length; {_REBUILD}")
    vectors = {name: tensors[spec.key] for name, spec in manifest.vectors.items()}

    tensors = _parse_tensors(probe_bytes, folder / PROBE_NAME)
    shapes = {f"{name}.weight": (len(probe.layers) * width,) for name, probe in manifest.probes.items()}
    shapes |= {f"{name}.bias": (1,) for name in manifest.probes}
    _check_shapes(tensors, shapes, folder / PROBE_NAME)
    probes = {name: (tensors[f"{name}.weight"], float(tensors[f"{name}.bias"][0])) for name in manifest.probes}
    return vectors, probes


_REBUILD = "build the bundle again with build-vectors, or copy it again from where it was exported"


def _read_folder(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; a bundle is the folder that build-vectors exports")
    data: dict[str, bytes] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not entry.is_file():
            raise BundleError(f"{entry} is not a plain file; a bundle holds nothing else, remove it")
        try:
            data[entry.name] = entry.read_bytes()
        except OSError as error:
            raise BundleError(f"{entry} cannot be read: {error.strerror or error}") from error
    if MANIFEST_NAME not in data:
        raise BundleError(f"{folder} has no {MANIFEST_NAME}, so it is no bundle; give the folder that holds one")
    return data


def _check_files(folder: Path, manifest: Manifest, data: dict[str, bytes]) -> None:
    listed = set(manifest.files)
    for name in sorted((REQUIRED_FILES | listed) - data.keys()):
        raise BundleError(f"{folder / name} is missing; {_REBUILD}")
    for name in sorted(data.keys() - listed):
        raise BundleError(f"{folder / name} is not listed in the manifest; remove it, or {_REBUILD}")
    for name, content in data.items():
        if hashlib.sha256(content).hexdigest() != manifest.files[name]:
            raise BundleError(f"{folder / name} was changed after export (its sha256 does not match); {_REBUILD}")


def _parse_tensors(data: bytes, origin: Path) -> dict[str, FloatArray]:
    try:
        tensors = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{origin} is not a safetensors file: {error}; {_REBUILD}") from error
    return dict(tensors)


def _check_shapes(tensors: dict[str, FloatArray], shapes: dict[str, tuple[int, ...]], origin: Path) -> None:
    for name in sorted(shapes.keys() ^ tensors.keys()):
        state = "missing from" if name in shapes else "not described by the manifest but present in"
        raise BundleError(f"tensor {name!r} is {state} {origin}; {_REBUILD}")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.shape != shapes[name]:
            found = f"{tensor.dtype} {tensor.shape}"
            raise BundleError(f"{origin}: tensor {name!r} must be float32 {shapes[name]}, found {found}; {_REBUILD}")
        if not np.all(np.isfinite(tensor)):
            raise BundleError(f"{origin}: tensor {name!r} holds values that are not finite; {_REBUILD}")
        tensor.flags.writeable = False
