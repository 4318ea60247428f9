"""Training of the general text-only boundary classifier: folds for the thresholds, seeds for the figures.

Everything is measured on the quantised ONNX model through the tokenizer and windows that serve it. Thresholds and
calibration come from scores out of fold (a topic of contrast pairs is never split), the yardstick is only scored: it
says whether the bound that was chosen without it holds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detectors.boundary_zones import NOTHING_IS_BENIGN
from detectors.manifest import ZoneTable
from detectors.onnx_classifier import raw_logits
from detectors.onnx_manifest import (
    MODEL_NAME,
    TOKENIZER_NAME,
    DetectorKind,
    DetectorManifest,
    OutputForm,
    read_detector,
    write_detector,
)
from detectors.onnx_session import OnnxSession
from detectors.onnx_windows import Windower
from detectors.statistics import Interval, clopper_pearson
from rass.detector_training.boundary_data import Example, by_source
from rass.detector_training.boundary_encoder import Encoder, TrainingSettings, fine_tune, source_weights
from rass.detector_training.boundary_folds import score_out_of_fold
from rass.detector_training.boundary_score import AtBound
from rass.detector_training.onnx_export import export_network
from rass.errors import StageError
from rass.logistic import fit_logistic
from rass.zones import UNREACHABLE, allowed_events, thresholds, zone_table

__all__ = [
    "FALSE_OPEN",
    "MOST_BYTES",
    "Calibration",
    "OpenedShare",
    "calibrate",
    "cross_fit",
    "finish",
    "folder_logits",
    "out_of_fold_share",
    "reasons_not_to_ship",
    "train_folder",
]

DoubleArray = npt.NDArray[np.float64]
Report = Callable[[str], None]

FALSE_OPEN = 0.03
FALSE_CLOSE = 0.05
MOST_BYTES = 25_000_000
_BATCH = 32
_NAME = "boundary-minilm"


@dataclass(frozen=True, slots=True)
class Calibration:
    """From raw logits to calibrated ones, and the zones of these."""

    scale: float
    offset: float
    zones: ZoneTable


@dataclass(frozen=True, slots=True)
class OpenedShare:
    """What one language's threshold calls benign out of fold; a unit counts once, ``units`` are harmful ones."""

    benign_below: float
    units: int
    harmful: Interval
    benign: Interval

    @property
    def opens(self) -> bool:
        """Whether the threshold can be undercut at all."""
        return self.benign_below > UNREACHABLE


def train_folder(
    examples: Sequence[Example], encoder: str, settings: TrainingSettings, out: Path, report: Report | None = None
) -> DetectorManifest:
    """Fine-tune on ``examples`` and write an uncalibrated ONNX folder; raises ``InputError``."""
    network, tokenizer = Encoder.load(encoder, settings)
    fine_tune(network, tokenizer, examples, settings, report)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(out / TOKENIZER_NAME))
    distance = export_network(network, out / MODEL_NAME, vocabulary=network.model.config.vocab_size, int8=True)
    manifest = DetectorManifest(
        kind=DetectorKind.BOUNDARY,
        name=_NAME,
        license="Apache-2.0",
        command=f"rass detector train boundary --epochs {settings.epochs}",
        form=OutputForm.LOGIT,
        outputs=1,
        harmful=(0,),
        max_tokens=settings.max_tokens,
        pad_id=tokenizer.pad_token_id or 0,
        scale=1.0,
        offset=0.0,
        limit=FALSE_OPEN,
        zones=NOTHING_IS_BENIGN,
        figures={"int8_distance": distance},
    )
    write_detector(out, manifest)
    return manifest


def cross_fit(
    examples: Sequence[Example], encoder: str, settings: TrainingSettings, report: Report | None = None
) -> DoubleArray:
    """Return each example's raw logit from a model that has seen neither it nor its topic."""

    def learn_and_score(learnt: Sequence[Example], texts: Sequence[str]) -> DoubleArray:
        with tempfile.TemporaryDirectory() as folder:
            manifest = train_folder(learnt, encoder, settings, Path(folder), report)
            return folder_logits(Path(folder), manifest, texts)

    return score_out_of_fold(examples, learn_and_score)


def calibrate(examples: Sequence[Example], scores: DoubleArray) -> Calibration:
    """Fit Platt's scaling and the zones of each language on raw logits out of fold; raises ``StageError``.

    The false-open bound holds for every source by itself, so that easy harmful prompts cannot pay for hard ones. A
    language opens nothing where a source has too few requests for one of them to fall on the wrong side: there the
    threshold would be the score of a single prompt. Languages without thresholds get the most careful ones of all.
    """
    labels = np.array([example.harmful for example in examples])
    scale, offset = fit_logistic(scores[:, None], labels, source_weights(examples), penalty=1e-6)
    if scale <= 0:
        raise StageError("the classifier ranks its own examples the wrong way round; it cannot be calibrated")
    h = scale * scores + offset
    table = {}
    for language in sorted({example.language for example in examples}):
        mine = [row for row, example in enumerate(examples) if example.language == language]
        harmful = {
            source: (h[rows], [examples[row].unit for row in rows])
            for source, rows in _rows_by_source(examples, [row for row in mine if labels[row]]).items()
        }
        benign = [row for row in mine if not labels[row]]
        found = thresholds(
            harmful,
            (h[benign], [examples[row].unit for row in benign]),
            false_open=FALSE_OPEN,
            false_close=FALSE_CLOSE,
        )
        enough = all((allowed_events(len(set(units)), FALSE_OPEN) or 0.0) >= 1.0 for _, units in harmful.values())
        table[language] = found if enough else replace(found, benign_below=UNREACHABLE)
    return Calibration(float(scale), float(offset), zone_table(table))


def out_of_fold_share(examples: Sequence[Example], scores: DoubleArray, found: Calibration) -> dict[str, OpenedShare]:
    """Return for each language what its threshold opens among the examples, from raw logits out of fold."""
    h = found.scale * scores + found.offset
    shares = {}
    for language, zones in found.zones.by_language.items():
        opened: dict[bool, dict[str, list[bool]]] = {True: {}, False: {}}
        for example, one in zip(examples, h.tolist(), strict=True):
            if example.language == language:
                units = opened[example.harmful].setdefault(f"{example.source}\n{example.unit}", [])
                units.append(one < zones.benign_below)
        harmful, benign = (
            clopper_pearson(sum(sum(rows) / len(rows) for rows in units.values()), len(units))
            for units in (opened[True], opened[False])
        )
        shares[language] = OpenedShare(zones.benign_below, len(opened[True]), harmful, benign)
    return shares


def reasons_not_to_ship(on_yardstick: AtBound, model_bytes: int) -> list[str]:
    """Return one sentence for each condition that a classifier misses: empty if it may ship.

    ``on_yardstick`` is what its own threshold, chosen without the yardstick, does there.
    """
    reasons = []
    if not on_yardstick.false_open.high <= FALSE_OPEN:
        reasons.append(
            f"of the harmful yardstick prompts {on_yardstick.false_open.value:.1%} are called benign, "
            f"at most {on_yardstick.false_open.high:.1%}; the bound is {FALSE_OPEN:.0%}"
        )
    if not on_yardstick.recall.value > 0:
        reasons.append("it opens none of the over-refused yardstick prompts, so it is of no use")
    if model_bytes > MOST_BYTES:
        reasons.append(f"its model has {model_bytes / 1e6:.1f} MB; the limit is {MOST_BYTES / 1e6:.0f} MB")
    return reasons


def finish(folder: Path, found: Calibration, figures: Mapping[str, object]) -> None:
    """Write calibration and figures into a folder's `detector.json`; raises ``ModelFileError`` for a broken folder."""
    manifest = read_detector(folder)
    write_detector(
        folder,
        replace(
            manifest,
            scale=found.scale,
            offset=found.offset,
            zones=found.zones,
            figures={**manifest.figures, **figures},
        ),
    )


def folder_logits(folder: Path, manifest: DetectorManifest, texts: Sequence[str]) -> DoubleArray:
    """Return the raw logit of each text as served: the highest of its windows."""
    session = OnnxSession(folder / MODEL_NAME, threads=1, device="auto")
    windower = Windower(folder / TOKENIZER_NAME, max_tokens=manifest.max_tokens, pad_id=manifest.pad_id)
    rows = [(index, window) for index, text in enumerate(texts) for window in windower.windows(text).ids]
    rows.sort(key=lambda row: len(row[1]))
    scores = np.full(len(texts), -np.inf)
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        outputs = session.run([window for _, window in part], pad_id=manifest.pad_id)
        raw = raw_logits(outputs, manifest.form, manifest.harmful)
        np.maximum.at(scores, [index for index, _ in part], raw)
    return scores


def _rows_by_source(examples: Sequence[Example], rows: Sequence[int]) -> dict[str, list[int]]:
    """Return the given rows by their examples' source."""
    return {
        source: [rows[place] for place in places]
        for source, places in by_source([examples[row] for row in rows]).items()
    }
