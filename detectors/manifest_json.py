"""Reading and writing the bytes of a bundle's `manifest.json`.

``parse`` refuses what it does not fully understand; ``render`` gives stable bytes back. Both are pure.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import TypeVar

from detectors.manifest import (
    SCHEMA_VERSION,
    STEPS_UNLESS_SAID,
    LanguageSteering,
    Manifest,
    ManifestError,
    ModelIdentity,
    ProbePosition,
    ProbeSpec,
    Provenance,
    SteeringForm,
    SteeringPlan,
    SteeringSpan,
    ValidatedStep,
    Validation,
    VectorSpec,
    Zones,
    ZoneTable,
    ZoneThresholds,
    check,
)
from detectors.strict_json import JsonObject, JsonShapeError, parse_object

_Choice = TypeVar("_Choice", bound=StrEnum)


def parse(data: bytes) -> Manifest:
    """Parse and check the bytes of a ``manifest.json``.

    Raises ``ManifestError`` naming the key and what is wrong with it.
    """
    try:
        manifest = _manifest(parse_object(data))
    except JsonShapeError as error:
        raise ManifestError(str(error)) from error
    check(manifest)
    return manifest


def render(manifest: Manifest) -> bytes:
    """Return the manifest as stable, indented UTF-8 JSON: equal manifests give equal bytes.

    ``validation.steps`` and the probes' ``share`` are left out where they say no more than their absence does.
    """
    check(manifest)
    fields = asdict(manifest)
    if manifest.validation.steps == STEPS_UNLESS_SAID:
        del fields["validation"]["steps"]
    for probe in fields["probes"].values():
        if probe["share"] is None:
            del probe["share"]
    zones = fields["zones"]
    requests, answers = zones.pop("requests"), zones.pop("answers")
    zones.update(requests)
    if answers is not None:
        zones["answer"] = answers
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _manifest(root: JsonObject) -> Manifest:
    version = root.integer("schema_version")
    if version != SCHEMA_VERSION:
        raise JsonShapeError(f"schema_version is {version}, this version of rass-proxy reads {SCHEMA_VERSION}")
    manifest = Manifest(
        created=root.text("created"),
        model=_model(root.child("model")),
        provenance=_provenance(root.child("provenance")),
        languages=root.texts("languages"),
        vectors={name: _vector(node) for name, node in root.children("vectors").items()},
        steering=_steering(root.child("steering")),
        probes={name: _probe(node) for name, node in root.children("probes").items()},
        zones=_zones(root.child("zones")),
        limits=root.raw_object("limits"),
        validation=_validation(root.child("validation")),
        questions=_questions(root.child("questions")),
        files={name: str(value) for name, value in root.raw_object("files").items()},
    )
    root.finish()
    return manifest


def _model(node: JsonObject) -> ModelIdentity:
    model = ModelIdentity(
        id=node.text("id"),
        revision=node.text("revision"),
        hidden_size=node.integer("hidden_size"),
        num_layers=node.integer("num_layers"),
        layer_convention=node.text("layer_convention"),
    )
    node.finish()
    return model


def _provenance(node: JsonObject) -> Provenance:
    provenance = Provenance(
        command=node.text("command"),
        seed=node.integer("seed"),
        rass_version=node.text("rass_version"),
        splits=node.raw_object("splits"),
    )
    node.finish()
    return provenance


def _vector(node: JsonObject) -> VectorSpec:
    vector = VectorSpec(
        key=node.text("key"),
        language=node.text("language"),
        layers=node.integers("layers"),
        scale=node.number("scale"),
        mean_projection=node.number("mean_projection"),
    )
    node.finish()
    return vector


def _steering(node: JsonObject) -> SteeringPlan:
    plan = SteeringPlan(
        form=_choice(SteeringForm, node.text("form"), "steering.form"),
        span=_choice(SteeringSpan, node.text("span"), "steering.span"),
        palette=node.numbers("palette"),
        by_language={name: _language_steering(entry) for name, entry in node.children("by_language").items()},
    )
    node.finish()
    return plan


def _language_steering(node: JsonObject) -> LanguageSteering:
    entry = LanguageSteering(
        vector=node.text("vector"),
        benign=node.number("benign") if node.has("benign") else None,
        band=node.number("band") if node.has("band") else None,
    )
    node.finish()
    return entry


def _probe(node: JsonObject) -> ProbeSpec:
    probe = ProbeSpec(
        layers=node.integers("layers"),
        position=_choice(ProbePosition, node.text("position"), "probes.*.position"),
        share=node.number("share") if node.has("share") else None,
    )
    node.finish()
    return probe


def _zones(node: JsonObject) -> Zones:
    answers = None
    if node.has("answer"):
        child = node.child("answer")
        answers = _zone_table(child)
        child.finish()
    zones = Zones(limit=node.number("limit"), requests=_zone_table(node), answers=answers)
    node.finish()
    return zones


def _zone_table(node: JsonObject) -> ZoneTable:
    return ZoneTable(
        by_language={name: _thresholds(entry) for name, entry in node.children("by_language").items()},
        default=_thresholds(node.child("default")),
    )


def _thresholds(node: JsonObject) -> ZoneThresholds:
    thresholds = ZoneThresholds(
        benign_below=node.number("benign_below"),
        harmful_above=node.number("harmful_above"),
    )
    node.finish()
    return thresholds


def _validation(node: JsonObject) -> Validation:
    steps = STEPS_UNLESS_SAID
    if node.has("steps"):
        steps = tuple(_choice(ValidatedStep, name, "validation.steps") for name in node.texts("steps"))
    validation = Validation(
        passed=node.boolean("passed"),
        split=node.text("split"),
        figures=node.raw_object("figures"),
        steps=steps,
    )
    node.finish()
    return validation


def _questions(node: JsonObject) -> dict[str, str]:
    questions = {language: node.text(language) for language in node.names()}
    node.finish()
    return questions


def _choice(options: type[_Choice], value: str, where: str) -> _Choice:
    try:
        return options(value)
    except ValueError:
        known = ", ".join(repr(option.value) for option in options)
        raise JsonShapeError(f"{where} must be one of {known}, found {value!r}") from None
