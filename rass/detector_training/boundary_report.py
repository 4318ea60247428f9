"""The table of a boundary classifier beside its baselines, as data and as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from detectors.statistics import Interval
from rass.detector_training.boundary_data import CONTRAST, YARDSTICK, Example, Refused, read_prompts, read_refused
from rass.detector_training.boundary_encoder import Encoder, TrainingSettings, source_weights
from rass.detector_training.boundary_folds import LearnAndScore, score_out_of_fold
from rass.detector_training.boundary_ngrams import NgramModel
from rass.detector_training.boundary_score import (
    CONTRAST_KINDS,
    AtBound,
    HeldOut,
    auc_by_kind,
    auc_interval,
    held_out_pairs,
    recall_at,
    recall_at_bound,
)
from rass.detector_training.boundary_train import OpenedShare
from rass.logistic import fit_logistic

__all__ = [
    "Row",
    "Yardstick",
    "frozen_row",
    "load_yardstick",
    "ngram_rows",
    "score_row",
    "table",
    "threshold_json",
    "threshold_table",
]

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
    """One classifier's figures; ``shipped`` is what its own thresholds do, ``best`` what any threshold could.

    ``held_out`` are its figures on contrast pairs of topics that it has not learnt.
    """

    name: str
    auc: Interval
    by_kind: Mapping[str, float]
    best: AtBound | None
    shipped: AtBound | None
    held_out: HeldOut | None

    def to_json(self) -> dict[str, object]:
        """Return the figures as JSON values; a type or language that has no figure is null, which is not a zero."""
        found: dict[str, object] = {
            "auc": _rounded(self.auc),
            "by_kind": _shares(self.by_kind),
            "among_refused": {name: _at(one) for name, one in (("best", self.best), ("shipped", self.shipped))},
        }
        if self.held_out is not None:
            found["held_out_topics"] = {
                "auc": _rounded(self.held_out.auc),
                "ordered": _rounded(self.held_out.ordered),
                "by_language": _shares(self.held_out.by_language),
                "by_topic": _shares(self.held_out.by_topic),
            }
        return found


def load_yardstick(data: Path) -> Yardstick:
    """Read the yardstick's prompts and refusals below the shared data's folder; raises ``InputError``."""
    return Yardstick(tuple(read_prompts(data, use="score", source=YARDSTICK)), tuple(read_refused(data)))


def score_row(
    name: str,
    scorer: Scorer,
    yardstick: Yardstick,
    *,
    limit: float,
    threshold: float | None = None,
    held_out: HeldOut | None = None,
) -> Row:
    """Score one classifier on the yardstick; ``threshold`` is its own, in the scorer's unit, where it has one."""
    texts = [example.text for example in yardstick.examples]
    prompts = [one.prompt for one in yardstick.refused]
    every = scorer([*texts, *prompts])
    scores = every[: len(texts)]
    harmful = np.array([example.harmful for example in yardstick.examples])
    by_prompt = dict(zip(prompts, every[len(texts) :].tolist(), strict=True))
    return Row(
        name,
        auc_interval(scores, harmful),
        auc_by_kind(yardstick.examples, scores),
        recall_at_bound(yardstick.refused, by_prompt, limit),
        None if threshold is None else recall_at(yardstick.refused, by_prompt, threshold),
        held_out,
    )


def ngram_rows(examples: Sequence[Example], yardstick: Yardstick, *, limit: float) -> Iterator[Row]:
    """Score character n-grams learnt from shared prompts, from pairs and from both."""
    for name, sources in (("shared prompts", {False}), ("contrast pairs", {True}), ("both", {False, True})):

        def learn_and_score(
            learnt: Sequence[Example], texts: Sequence[str], sources: set[bool] = sources
        ) -> DoubleArray:
            part = [example for example in learnt if (example.source == CONTRAST) in sources]
            model = NgramModel()
            model.fit([example.text for example in part], _labels(part), source_weights(part))
            return model.logits(texts)

        if len({one.harmful for one in examples if (one.source == CONTRAST) in sources}) == 2:
            yield _baseline(f"n-grams, {name}", learn_and_score, examples, yardstick, limit)


def frozen_row(examples: Sequence[Example], encoder: str, yardstick: Yardstick, *, limit: float) -> Row:
    """Score a logistic regression on the untouched encoder's embeddings, learnt from everything."""
    return _baseline("frozen encoder", _frozen(encoder), examples, yardstick, limit)


def table(rows: Sequence[Row]) -> str:
    """Return the figures as text: a line for each classifier, then AUCs by kind, language and topic, a column each."""
    lines = ["yardstick: AUC; recall at the best threshold and at its own; harmful ones called benign at its own"]
    for number, row in enumerate(rows, start=1):
        best = "-" if row.best is None else _interval(row.best.recall)
        own = "-" if row.shipped is None else _interval(row.shipped.recall)
        opened = "-" if row.shipped is None else _interval(row.shipped.false_open)
        lines.append(f"{number:>2} {row.name:<26}{_interval(row.auc):>23}{best:>23}{own:>23}{opened:>23}")
    lines += ["", "contrast pairs of topics that were not learnt: AUC; share of pairs in the right order"]
    for number, row in enumerate(rows, start=1):
        if row.held_out is not None:
            auc, ordered = _interval(row.held_out.auc), _interval(row.held_out.ordered)
            lines.append(f"{number:>2} {row.name:<26}{auc:>23}{ordered:>23}")
    held_out = [row.held_out for row in rows]
    lines += _columns("AUC by kind of the yardstick", list(CONTRAST_KINDS), [row.by_kind for row in rows])
    for title, figures in (
        ("AUC by language, topics not learnt", [one.by_language if one else {} for one in held_out]),
        ("AUC by topic, not learnt", [one.by_topic if one else {} for one in held_out]),
    ):
        lines += _columns(title, sorted({name for figure in figures for name in figure}), figures)
    return "\n".join(lines)


def threshold_table(shares: Mapping[str, OpenedShare]) -> str:
    """Return as text what each language's threshold opens out of fold."""
    lines = ["own thresholds, out of fold: requests; calibrated logit; harmful ones and benign ones called benign"]
    for language, one in shares.items():
        below = f"{one.benign_below:.2f}" if one.opens else "opens nothing"
        lines.append(f"{language:<4}{one.units:>6}{below:>16}{_interval(one.harmful):>23}{_interval(one.benign):>23}")
    return "\n".join(lines)


def threshold_json(shares: Mapping[str, OpenedShare]) -> dict[str, object]:
    """Return the same as JSON values."""
    return {
        language: {
            "units": one.units,
            "benign_below": round(one.benign_below, 4) if one.opens else None,
            "false_open": _rounded(one.harmful),
            "recall": _rounded(one.benign),
        }
        for language, one in shares.items()
    }


def _baseline(
    name: str, learn_and_score: LearnAndScore, examples: Sequence[Example], yardstick: Yardstick, limit: float
) -> Row:
    held_out = held_out_pairs(examples, score_out_of_fold(examples, learn_and_score))
    return score_row(name, partial(learn_and_score, examples), yardstick, limit=limit, held_out=held_out)


def _frozen(encoder: str) -> LearnAndScore:
    """Return a logistic regression on the untouched encoder's embeddings, which are computed once for each text."""
    network, tokenizer = Encoder.load(encoder, TrainingSettings())
    network.eval()
    known: dict[str, npt.NDArray[np.float32]] = {}

    def embed(texts: Sequence[str]) -> DoubleArray:
        fresh = sorted(set(texts) - known.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(fresh), _BATCH):
            part = fresh[start : start + _BATCH]
            encoded = tokenizer(part, padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                rows = network.embed(encoded["input_ids"], encoded["attention_mask"]).numpy()
            known.update(zip(part, rows, strict=True))
        return np.stack([known[text] for text in texts]).astype(np.float64)

    def learn_and_score(learnt: Sequence[Example], texts: Sequence[str]) -> DoubleArray:
        features = embed([example.text for example in learnt])
        mean, spread = features.mean(0), features.std(0) + 1e-9
        weights = fit_logistic((features - mean) / spread, _labels(learnt), source_weights(learnt), penalty=1e-3)
        found: DoubleArray = (embed(texts) - mean) / spread @ weights[:-1] + weights[-1]
        return found

    return learn_and_score


def _labels(examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
    return np.array([example.harmful for example in examples])


def _columns(title: str, names: Sequence[str], figures: Sequence[Mapping[str, float]]) -> list[str]:
    lines = ["", f"{title:<36}" + "".join(f"{number:>7}" for number in range(1, len(figures) + 1))]
    for name in names:
        cells = [f"{figure[name]:.2f}" if name in figure else "-" for figure in figures]
        lines.append(f"{name:<36}" + "".join(f"{cell:>7}" for cell in cells))
    return lines


def _at(found: AtBound | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "threshold": round(found.threshold, 4),
        "recall": _rounded(found.recall),
        "false_open": _rounded(found.false_open),
    }


def _rounded(found: Interval) -> dict[str, float | None]:
    return _shares(found.to_json())


def _shares(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if isnan(value) else round(value, 4) for name, value in figures.items()}


def _interval(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
