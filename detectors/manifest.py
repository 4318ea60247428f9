"""The manifest of a bundle: what a `manifest.json` says, as frozen dataclasses.

This is the schema of the only bridge between the offline pipeline and the proxy. The types are here, with ``check`` for
what one key says against another; `manifest_json` reads and writes the file's bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
VECTORS_NAME = "vectors.safetensors"
PROBE_NAME = "probe.safetensors"
CARD_NAME = "card.md"
REQUIRED_FILES = frozenset({VECTORS_NAME, PROBE_NAME, CARD_NAME})
MAX_PALETTE = 8  # engines keep a small fixed number of (vector, layer, strength) slots
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class SteeringForm(StrEnum):
    """How a vector acts on the residual stream (``v`` unit direction, ``s`` strength).

    ``ADD``: x ← x - s·scale·v.  ``ABLATE``: x ← x - s·((x·v) - mean_projection)·v.
    """

    ADD = "add"
    ABLATE = "ablate"


class SteeringSpan(StrEnum):
    """Which positions are steered: from the last prompt token onward, that token alone, or every one, prompt included.

    Steering the whole prompt disturbs what is read there, so it is for engines that can do nothing else.
    """

    ONWARD = "onward"
    LAST_PROMPT_TOKEN = "last_prompt_token"
    EVERY_TOKEN = "every_token"


class ProbePosition(StrEnum):
    """Where a probe reads, each time at the last token before the model speaks.

    ``ANSWER_START``: before its answer to each user turn. ``TEMPLATE_END``: at the end of a request's template.
    ``QUESTION_END``: after the bundle's question whether the request was harmful, put after an answer (``answer_h``) or
    after the request alone (``asked_h``).
    """

    ANSWER_START = "answer_start"
    TEMPLATE_END = "template_end"
    QUESTION_END = "question_end"


class ValidatedStep(StrEnum):
    """A step of the proxy's recovery that validation of a bundle can cover."""

    STEER = "steer"
    CLARIFY = "clarify"


STEPS_UNLESS_SAID: tuple[ValidatedStep, ...] = (ValidatedStep.STEER,)
"""What validation covered in a bundle that does not say: steering is what the pipeline validates."""

PROBE_POSITIONS: Mapping[str, ProbePosition] = {
    "h": ProbePosition.ANSWER_START,
    "rho": ProbePosition.TEMPLATE_END,
    "answer_h": ProbePosition.QUESTION_END,
    "asked_h": ProbePosition.QUESTION_END,
}


class ManifestError(ValueError):
    """A manifest contradicts itself or the schema; the message names the key and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model that a bundle was measured on; ``layer_convention`` says in words what a layer number means."""

    id: str
    revision: str
    hidden_size: int
    num_layers: int
    layer_convention: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """The command that makes the bundle again; ``splits`` maps the name of a split to its number of prompts."""

    command: str
    seed: int
    rass_version: str
    splits: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """One steering vector: row i of tensor ``key`` is the unit direction for ``layers[i]`` (residual after block l)."""

    key: str
    language: str
    layers: tuple[int, ...]
    scale: float
    mean_projection: float


@dataclass(frozen=True, slots=True)
class LanguageSteering:
    """The vector of one language and its strength in each zone; ``None`` means not recovered by steering there."""

    vector: str
    benign: float | None
    band: float | None


@dataclass(frozen=True, slots=True)
class SteeringPlan:
    """How recovery steers: one form, one span, at most eight strengths, a vector per language."""

    form: SteeringForm
    span: SteeringSpan
    palette: tuple[float, ...]
    by_language: Mapping[str, LanguageSteering]


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """A linear probe over the concatenated residual streams of ``layers``, read at ``position``.

    ``share`` is what ``asked_h`` has in a request's coordinate, beside ``h``; other probes have none.
    """

    layers: tuple[int, ...]
    position: ProbePosition
    share: float | None = None


@dataclass(frozen=True, slots=True)
class ZoneThresholds:
    """``h < benign_below`` is benign, ``h > harmful_above`` is harmful, the rest is the band."""

    benign_below: float
    harmful_above: float


@dataclass(frozen=True, slots=True)
class ZoneTable:
    """Thresholds per language and the (most conservative) ones for every other language."""

    by_language: Mapping[str, ZoneThresholds]
    default: ZoneThresholds


@dataclass(frozen=True, slots=True)
class Zones:
    """Thresholds of requests and, where the bundle has an ``answer_h`` probe, of answers.

    ``limit`` bounds P(zone benign | harmful): the thresholds were chosen so that its upper bound stays below.
    """

    limit: float
    requests: ZoneTable
    answers: ZoneTable | None


@dataclass(frozen=True, slots=True)
class Validation:
    """The outcome of validation on ``split``; ``figures`` is free-form JSON with intervals.

    ``steps`` are the steps of recovery that it covered, steering always among them.
    """

    passed: bool
    split: str
    figures: Mapping[str, object]
    steps: tuple[ValidatedStep, ...] = STEPS_UNLESS_SAID


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a bundle says about itself; ``files`` maps file names to the sha256 of their bytes.

    ``questions`` are put to the model, by language, where ``answer_h`` and ``asked_h`` are read.
    """

    created: str
    model: ModelIdentity
    provenance: Provenance
    languages: tuple[str, ...]
    vectors: Mapping[str, VectorSpec]
    steering: SteeringPlan
    probes: Mapping[str, ProbeSpec]
    zones: Zones
    limits: Mapping[str, object]
    validation: Validation
    questions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def with_files(self, files: Mapping[str, str]) -> Manifest:
        """Return a copy that lists ``files``."""
        return replace(self, files=dict(files))


def check(manifest: Manifest) -> None:
    """Check what one key says against the others.

    Raises ``ManifestError`` at the first contradiction; tensors are checked where the bundle is loaded.
    """
    model = manifest.model
    if model.hidden_size < 1 or model.num_layers < 1:
        raise ManifestError("model.hidden_size and model.num_layers must be at least 1")
    for name, vector in manifest.vectors.items():
        _check_name(name, "vectors")
        _check_name(vector.key, f"vectors.{name}.key")
        _check_layers(vector.layers, model.num_layers, f"vectors.{name}.layers")
    _check_steering(manifest)
    if "h" not in manifest.probes:
        raise ManifestError("probes.h is missing: without it no request has a zone")
    for name, probe in manifest.probes.items():
        expected = PROBE_POSITIONS.get(name)
        if expected is None:
            raise ManifestError(f"probes.{name} is not a known probe; known are {', '.join(PROBE_POSITIONS)}")
        if probe.position is not expected:
            raise ManifestError(f"probes.{name}.position must be {expected.value!r}, found {probe.position.value!r}")
        if (name == "asked_h") != (probe.share is not None) or not 0 < (probe.share or 0.5) < 1:
            raise ManifestError(f"probes.{name}.share: probe asked_h has one between 0 and 1, the others none")
        _check_layers(probe.layers, model.num_layers, f"probes.{name}.layers")
    if ("answer_h" in manifest.probes) != (manifest.zones.answers is not None):
        raise ManifestError("probes.answer_h and zones.answer must be given together")
    for name in ("answer_h", "asked_h"):
        if name in manifest.probes and not all(manifest.questions.values() or [""]):
            raise ManifestError(f"questions must hold what the model is asked, where probes.{name} reads")
    if not 0 < manifest.zones.limit < 1:
        raise ManifestError("zones.limit must lie between 0 and 1")
    for table in (manifest.zones.requests, manifest.zones.answers):
        for thresholds in (*table.by_language.values(), table.default) if table else ():
            if thresholds.benign_below > thresholds.harmful_above:
                raise ManifestError("zones: benign_below must not exceed harmful_above")
    steps = manifest.validation.steps
    if ValidatedStep.STEER not in steps or len(set(steps)) != len(steps):
        raise ManifestError("validation.steps must name distinct steps, with 'steer' among them")
    for name, digest in manifest.files.items():
        _check_name(name, "files")
        if name == MANIFEST_NAME or not _SHA256.fullmatch(digest):
            raise ManifestError(f"files.{name} must be the sha256 (64 hex digits) of a file beside the manifest")


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise ManifestError(f"{where}: {name!r} is not a plain name (letters, digits, '.', '_', '-'; no folders)")


def _check_layers(layers: tuple[int, ...], num_layers: int, where: str) -> None:
    if not layers or len(set(layers)) != len(layers) or not all(0 <= layer < num_layers for layer in layers):
        raise ManifestError(f"{where} must name distinct layers from 0 to {num_layers - 1}, found {list(layers)}")


def _check_steering(manifest: Manifest) -> None:
    plan = manifest.steering
    if not 0 < len(plan.palette) <= MAX_PALETTE or len(set(plan.palette)) != len(plan.palette):
        raise ManifestError(f"steering.palette must hold 1 to {MAX_PALETTE} distinct strengths")
    for language, entry in plan.by_language.items():
        where = f"steering.by_language.{language}"
        if entry.vector not in manifest.vectors:
            raise ManifestError(f"{where}.vector is {entry.vector!r}, which is not among the vectors")
        for strength in (entry.benign, entry.band):
            if strength is not None and strength not in plan.palette:
                raise ManifestError(f"{where}: strength {strength} is not in steering.palette")
