"""The table of a boundary classifier beside its baselines, as data and as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rass.detector_training.boundary_data import CONTRAST, YARDSTICK, Example, Refused, read_prompts, read_refused
from rass.detector_training.boundary_encoder import Encoder, TrainingSettings, source_weights
from rass.detector_training.boundary_ngrams import NgramModel
from rass.detector_training.boundary_score import (
    CONTRAST_KINDS,
    AtBound,
    auc_by_kind,
    auc_interval,
    recall_at,
    recall_at_bound,
)
from rass.logistic import fit_logistic

__all__ = ["Row", "Yardstick", "baseline_rows", "load_yardstick", "score_row", "table"]

DoubleArray = npt.NDArray[np.float64]
Scorer = Callable[[Sequence[str]], DoubleArray]

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The prompts that are scored and never learnt from, and those of them that models refused."""

    examples: tuple[Example, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One classifier's figures; ``shipped`` is what its own thresholds do, ``best`` what any threshold could."""

    name: str
    auc: Mapping[str, float]
    by_kind: Mapping[str, float]
    best: AtBound | None
    shipped: AtBound | None = None

    def to_json(self) -> dict[str, object]:
        """Return the figures as JSON values."""
        return {
            "auc": dict(self.auc),
            # A type that the yardstick lacks has no figure, which is not a zero.
            "by_kind": {kind: None if isnan(value) else round(value, 3) for kind, value in self.by_kind.items()},
            "among_refused": {name: _at(one) for name, one in (("best", self.best), ("shipped", self.shipped))},
        }


def load_yardstick(data: Path) -> Yardstick:
    """Read the yardstick's prompts and refusals below the shared data's folder; raises ``InputError``."""
    return Yardstick(tuple(read_prompts(data, use="score", source=YARDSTICK)), tuple(read_refused(data)))


def score_row(name: str, scorer: Scorer, yardstick: Yardstick, *, limit: float, threshold: float | None = None) -> Row:
    """Score one classifier; ``threshold`` is its own, in the scorer's unit, where it has one."""
    scores = scorer([example.text for example in yardstick.examples])
    harmful = np.array([example.harmful for example in yardstick.examples])
    prompts = [one.prompt for one in yardstick.refused]
    by_prompt = dict(zip(prompts, scorer(prompts).tolist(), strict=True))
    return Row(
        name,
        {key: round(value, 4) for key, value in auc_interval(scores, harmful).to_json().items()},
        auc_by_kind(yardstick.examples, scores),
        recall_at_bound(yardstick.refused, by_prompt, limit),
        None if threshold is None else recall_at(yardstick.refused, by_prompt, threshold),
    )


def baseline_rows(examples: Sequence[Example], encoder: str, yardstick: Yardstick, *, limit: float) -> list[Row]:
    """Score character n-grams on shared prompts, on pairs and on both, and a frozen encoder on both."""
    parts = {
        "n-grams, shared prompts": [example for example in examples if example.source != CONTRAST],
        "n-grams, contrast pairs": [example for example in examples if example.source == CONTRAST],
        "n-grams, both": list(examples),
    }
    rows: list[Row] = []
    for name, part in parts.items():
        if len({example.harmful for example in part}) == 2:
            model = NgramModel()
            model.fit([example.text for example in part], _labels(part), source_weights(part))
            rows.append(score_row(name, model.logits, yardstick, limit=limit))
    rows.append(score_row("frozen encoder, both", _frozen(examples, encoder), yardstick, limit=limit))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the figures as text: a line for each classifier, then AUC by kind with a column for each."""
    lines = [
        f"{'classifier':<28}{'AUC':>7}{'95 % interval':>18}{'recall, best':>14}{'recall, own':>13}{'false open':>20}"
    ]
    for row in rows:
        interval = f"[{row.auc['low']:.3f}, {row.auc['high']:.3f}]"
        opened = "-" if row.shipped is None else _interval(row.shipped)
        lines.append(
            f"{row.name:<28}{row.auc['value']:>7.3f}{interval:>18}{_share(row.best):>14}{_share(row.shipped):>13}"
            f"{opened:>20}"
        )
    lines += ["", f"{'AUC by kind':<24}" + "".join(f"{number:>7}" for number in range(1, len(rows) + 1))]
    for kind in CONTRAST_KINDS:
        lines.append(f"{kind:<24}" + "".join(f"{row.by_kind[kind]:>7.2f}" for row in rows))
    return "\n".join(lines)


def _frozen(examples: Sequence[Example], encoder: str) -> Scorer:
    """Return a logistic regression on the untouched encoder's embeddings."""
    network, tokenizer = Encoder.load(encoder, TrainingSettings())
    network.eval()

    def embed(texts: Sequence[str]) -> DoubleArray:
        parts = []
        for start in range(0, len(texts), _BATCH):
            part = list(texts[start : start + _BATCH])
            encoded = tokenizer(part, padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                parts.append(network.embed(encoded["input_ids"], encoded["attention_mask"]).numpy())
        return np.concatenate(parts).astype(np.float64)

    features = embed([example.text for example in examples])
    mean, spread = features.mean(0), features.std(0) + 1e-9
    weights = fit_logistic((features - mean) / spread, _labels(examples), source_weights(examples), penalty=1e-3)

    def score(texts: Sequence[str]) -> DoubleArray:
        found: DoubleArray = (embed(texts) - mean) / spread @ weights[:-1] + weights[-1]
        return found

    return score


def _labels(examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
    return np.array([example.harmful for example in examples])


def _at(found: AtBound | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "threshold": round(found.threshold, 4),
        "recall": {key: round(value, 4) for key, value in found.recall.to_json().items()},
        "false_open": {key: round(value, 4) for key, value in found.false_open.to_json().items()},
    }


def _share(found: AtBound | None) -> str:
    return "-" if found is None else f"{found.recall.value:.3f}"


def _interval(found: AtBound) -> str:
    return f"{found.false_open.value:.3f} (≤ {found.false_open.high:.3f})"
