"""A folder with an ONNX text classifier: `detector.json`, the model and its tokenizer, checked byte by byte.

detector.json   what the outputs mean, calibration, thresholds, figures, sha256 of the other files
model.onnx      input_ids, attention_mask [, token_type_ids] -> outputs
tokenizer.json  of the Rust library `tokenizers`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from detectors.manifest import ZoneTable, ZoneThresholds
from detectors.onnx_session import ModelFileError
from detectors.strict_json import JsonObject, JsonShapeError, parse_object

__all__ = [
    "DETECTOR_NAME",
    "MODEL_NAME",
    "TOKENIZER_NAME",
    "DetectorKind",
    "DetectorManifest",
    "OutputForm",
    "read_detector",
    "write_detector",
]

DETECTOR_NAME = "detector.json"
MODEL_NAME = "model.onnx"
TOKENIZER_NAME = "tokenizer.json"
_FILES = (MODEL_NAME, TOKENIZER_NAME)
_SCHEMA_VERSION = 1


class DetectorKind(StrEnum):
    """What a classifier judges: requests, or answers."""

    BOUNDARY = "boundary"
    ANSWER_HARM = "answer_harm"


class OutputForm(StrEnum):
    """How the outputs become a logit: classes that exclude each other, independent ones, or the logit itself."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    LOGIT = "logit"


@dataclass(frozen=True, slots=True)
class DetectorManifest:
    """What `detector.json` says.

    ``harmful`` are the output columns that mean harm. The calibrated logit is ``scale`` x raw + ``offset``. ``limit``
    bounds P(zone benign | harmful) on the data that chose the thresholds. ``files`` maps names to sha256.
    """

    kind: DetectorKind
    name: str
    license: str
    command: str
    form: OutputForm
    outputs: int
    harmful: tuple[int, ...]
    max_tokens: int
    pad_id: int
    scale: float
    offset: float
    limit: float
    zones: ZoneTable
    figures: Mapping[str, object]
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.harmful or not all(0 <= column < self.outputs for column in self.harmful):
            raise ModelFileError(f"harmful must name columns from 0 to {self.outputs - 1}, found {list(self.harmful)}")
        if self.form is OutputForm.SOFTMAX and len(set(self.harmful)) >= self.outputs:
            raise ModelFileError("harmful must leave at least one class that is harmless")
        if self.form is OutputForm.LOGIT and self.outputs != 1:
            raise ModelFileError(f"a model whose output is the logit has one output, not {self.outputs}")
        if self.scale <= 0:
            raise ModelFileError("scale must be above 0: more harm must not lower the logit")


def read_detector(folder: Path) -> DetectorManifest:
    """Read `detector.json` and check the other files against it; raises ``ModelFileError`` with what is wrong."""
    path = folder / DETECTOR_NAME
    try:
        root = parse_object(path.read_bytes())
        manifest = _parse(root)
        root.finish()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (JsonShapeError, ValueError, ModelFileError) as error:
        raise ModelFileError(f"{path}: {error}") from error
    for name in _FILES:
        try:
            digest = _digest(folder / name)
        except OSError as error:
            raise ModelFileError(f"{folder / name} cannot be read: {error.strerror or error}") from error
        if manifest.files.get(name) != digest:
            raise ModelFileError(f"{folder / name} is not the file that {DETECTOR_NAME} describes (other sha256)")
    return manifest


def write_detector(folder: Path, manifest: DetectorManifest) -> None:
    """Write `detector.json` beside the model and tokenizer that lie in ``folder``, with their sha256."""
    value = {
        "schema_version": _SCHEMA_VERSION,
        "kind": manifest.kind.value,
        "name": manifest.name,
        "license": manifest.license,
        "command": manifest.command,
        "form": manifest.form.value,
        "outputs": manifest.outputs,
        "harmful": list(manifest.harmful),
        "max_tokens": manifest.max_tokens,
        "pad_id": manifest.pad_id,
        "scale": manifest.scale,
        "offset": manifest.offset,
        "limit": manifest.limit,
        "zones": {
            "by_language": {name: _thresholds_json(one) for name, one in manifest.zones.by_language.items()},
            "default": _thresholds_json(manifest.zones.default),
        },
        "figures": dict(manifest.figures),
        "files": {name: _digest(folder / name) for name in _FILES},
    }
    (folder / DETECTOR_NAME).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _parse(root: JsonObject) -> DetectorManifest:
    if (version := root.integer("schema_version")) != _SCHEMA_VERSION:
        raise ModelFileError(f"schema_version {version} is not known; this version reads {_SCHEMA_VERSION}")
    zones = root.child("zones")
    table = ZoneTable(
        {name: _thresholds(one) for name, one in zones.children("by_language").items()},
        _thresholds(zones.child("default")),
    )
    zones.finish()
    files = root.child("files")
    return DetectorManifest(
        kind=DetectorKind(root.text("kind")),
        name=root.text("name"),
        license=root.text("license"),
        command=root.text("command"),
        form=OutputForm(root.text("form")),
        outputs=root.integer("outputs"),
        harmful=root.integers("harmful"),
        max_tokens=root.integer("max_tokens"),
        pad_id=root.integer("pad_id"),
        scale=root.number("scale"),
        offset=root.number("offset"),
        limit=root.number("limit"),
        zones=table,
        figures=root.raw_object("figures"),
        files={name: files.text(name) for name in files.names()},
    )


def _thresholds(value: JsonObject) -> ZoneThresholds:
    found = ZoneThresholds(value.number("benign_below"), value.number("harmful_above"))
    value.finish()
    if found.benign_below > found.harmful_above:
        raise ModelFileError("zones: benign_below must not exceed harmful_above")
    return found


def _thresholds_json(thresholds: ZoneThresholds) -> dict[str, float]:
    return {"benign_below": thresholds.benign_below, "harmful_above": thresholds.harmful_above}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
