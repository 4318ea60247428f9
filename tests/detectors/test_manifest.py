"""A manifest that contradicts itself is refused with the name of the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from detectors.manifest import Manifest, ManifestError, ValidatedStep, check
from detectors.manifest_json import parse, render

Fields = dict[str, Any]


def test_json_round_trip(manifest: Manifest) -> None:
    assert parse(render(manifest)) == manifest
    assert render(parse(render(manifest))) == render(manifest)


def test_shape_on_disk(manifest: Manifest) -> None:
    fields = json.loads(render(manifest))
    assert set(fields) == {
        "schema_version", "created", "model", "provenance", "languages", "vectors", "steering", "probes", "zones",
        "limits", "validation", "questions", "files",
    }  # fmt: skip
    assert fields["zones"] == {
        "limit": 0.01,
        "by_language": {"en": {"benign_below": -2.0, "harmful_above": 1.0}},
        "default": {"benign_below": -4.0, "harmful_above": 0.0},
        "answer": {"by_language": {}, "default": {"benign_below": -1.0, "harmful_above": 1.0}},
    }
    assert fields["steering"]["by_language"]["zh"] == {"vector": "refusal-zh", "benign": 1.0, "band": None}


def test_steps_that_validation_covered(manifest: Manifest) -> None:
    assert "steps" not in json.loads(render(manifest))["validation"]
    both = (ValidatedStep.STEER, ValidatedStep.CLARIFY)
    covered = replace(manifest, validation=replace(manifest.validation, steps=both))
    assert json.loads(render(covered))["validation"]["steps"] == ["steer", "clarify"]
    assert parse(render(covered)) == covered


def _set(*path: str, value: object) -> Callable[[Fields], None]:
    def change(fields: Fields) -> None:
        node = fields
        for name in path[:-1]:
            node = node[name]
        node[path[-1]] = value

    return change


def _asks_without_questions(fields: Fields) -> None:
    fields["probes"]["asked_h"] = fields["probes"].pop("answer_h") | {"share": 0.5}
    fields["zones"]["answer"] = None
    fields["questions"] = {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema_version", value=2), "schema_version is 2"),
        (_set("schema_version", value="1"), "schema_version must be a whole number"),
        (_set("limitz", value={}), "limitz is not a known key; did you mean 'limits'"),
        (_set("model", "hidden", value=1), "model.hidden is not a known key"),
        (_set("model", "hidden_size", value=True), "model.hidden_size must be a whole number"),
        (_set("model", "num_layers", value=0), "must be at least 1"),
        (_set("languages", value=["en", 3]), "languages must be an array of strings"),
        (_set("vectors", "refusal-en", "scale", value="3"), "vectors.refusal-en.scale must be a finite number"),
        (_set("vectors", "refusal-en", "layers", value=[5]), "must name distinct layers from 0 to 4"),
        (_set("vectors", "refusal-en", "layers", value=[2, 2]), "must name distinct layers"),
        (_set("vectors", "refusal-en", "layers", value=[]), "must name distinct layers"),
        (_set("steering", "form", value="multiply"), "steering.form must be one of 'add', 'ablate'"),
        (_set("steering", "palette", value=[]), "steering.palette must hold"),
        (_set("steering", "palette", value=[float(i) for i in range(1, 10)]), "steering.palette must hold"),
        (_set("steering", "by_language", "en", "benign", value=3.0), "strength 3.0 is not in steering.palette"),
        (_set("steering", "by_language", "en", "vector", value="gone"), "not among the vectors"),
        (_set("probes", "h", "position", value="question_end"), "probes.h.position must be 'answer_start'"),
        (_set("probes", "g", value={"layers": [1], "position": "question_end"}), "probes.g is not a known probe"),
        (_set("probes", value={}), "probes.h is missing"),
        (_set("zones", "limit", value=0), "zones.limit must lie between"),
        (_set("zones", "default", "benign_below", value=9), "benign_below must not exceed harmful_above"),
        (_set("zones", "answer", value=None), "must be given together"),
        (_set("questions", value={}), "questions must hold what the model is asked, where probes.answer_h"),
        (_set("questions", "en", value=""), "questions must hold what the model is asked, where probes.answer_h"),
        (_set("probes", "h", "share", value=0.5), "probes.h.share"),
        (_set("probes", "asked_h", value={"layers": [4], "position": "question_end"}), "probes.asked_h.share"),
        (_asks_without_questions, "questions must hold what the model is asked, where probes.asked_h"),
        (_set("questions", "en", value=1), "questions.en must be a string"),
        (_set("files", "card.md", value="abc"), "must be the sha256"),
        (_set("validation", "steps", value=["clarify"]), "validation.steps must name distinct steps"),
        (_set("validation", "steps", value=["steer", "steer"]), "validation.steps must name distinct steps"),
        (_set("validation", "steps", value=["steer", "pray"]), "validation.steps must be one of 'steer', 'clarify'"),
        (_set("validation", "passed", value="yes"), "validation.passed must be true or false"),
    ],
)
def test_refused_with_the_key(manifest: Manifest, change: Callable[[Fields], None], message: str) -> None:
    fields = json.loads(render(manifest))
    change(fields)
    with pytest.raises(ManifestError) as caught:
        parse(json.dumps(fields).encode())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"[" * 100_000,
        b'{"a": %b}' % (b"1" * 5_000),
    ],
)
def test_not_an_object(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse(data)


def test_overflowing_number(manifest: Manifest) -> None:
    text = render(manifest).decode().replace("0.01", "1e999", 1)
    with pytest.raises(ManifestError, match="not a finite number"):
        parse(text.encode())


def test_vector_names_carry_no_separator(manifest: Manifest) -> None:
    spec = manifest.vectors["refusal-en"]
    with pytest.raises(ManifestError, match="not a plain name"):
        check(replace(manifest, vectors={**manifest.vectors, "a@b": spec}))
