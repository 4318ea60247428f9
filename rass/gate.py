"""The gate's probes and zones: harm of requests, refusal, and harm of answers, each fitted for what it decides.

The merit of a harm probe is what the proxy gets from it: the share of benign requests that it would let through when
only a bounded share of harmful ones may pass, out of fold, averaged over languages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.coordinates import request_coordinates
from detectors.manifest import ZoneTable, ZoneThresholds
from rass.folds import BoolArray
from rass.logistic import log_loss
from rass.observe import Observations
from rass.probe import FittedProbe, ProbeRows, ProbeSettings, fit_probe
from rass.prompts import LabelledPrompt
from rass.zones import UNREACHABLE, thresholds, zone_table

__all__ = ["AskedProbe", "HarmGate", "candidate_layers", "coverage", "fit_answers", "fit_harm", "fit_refusal"]

DoubleArray = npt.NDArray[np.float64]


_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True, slots=True)
class AskedProbe:
    """The probe ``asked_h`` and its share in a request's coordinate."""

    fitted: FittedProbe
    share: float


@dataclass(frozen=True, slots=True)
class HarmGate:
    """A harm probe with its zones; ``out_of_fold`` is each prompt's (or answer's) coordinate ``[rows]``.

    ``asked`` is the second probe of requests, where asking the model about them helps.
    """

    fitted: FittedProbe
    out_of_fold: DoubleArray
    zones: ZoneTable
    asked: AskedProbe | None = None


def candidate_layers(num_layers: int) -> list[tuple[int, ...]]:
    """Return the layer sets that probes are searched over: every single layer, adjacent pair and adjacent triple."""
    return [tuple(range(first, first + size)) for size in (1, 2, 3) for first in range(num_layers - size + 1)]


def fit_harm(observations: Observations, *, false_open: float, false_close: float, settings: ProbeSettings) -> HarmGate:
    """Fit ``h`` on the answer starts of all prompts, and ``asked_h`` where the model was asked about them.

    Every turn of a benign conversation is a benign example; of a harmful one only the last turn is known to be harmful.
    A conversation scores as its highest turn, in the merit, in the thresholds and later in the proxy. With ``asked_h``
    the last turn scores as a mean of both: they err on different requests, so that the mean can open for more benign
    ones at the same bound. Its share is the one of greatest merit; where none beats ``h`` alone, nothing is asked.

    Thresholds bound the error on what the gate will see: harmful requests that the model is known to refuse. One that
    it answers is never read in mode ``recover``, and its coordinate is often low for the same reason as its answer.
    """
    readings, prompts = observations.readings, observations.prompts
    owners = readings.owners
    last = np.append(owners[1:] != owners[:-1], True)
    harmful = np.array([prompt.harmful for prompt in prompts])
    rows = ProbeRows(
        values=readings.turns,
        labels=harmful[owners],
        prompts=tuple(prompts[owner] for owner in owners.tolist()),
        fit=last | ~harmful[owners],
    )

    def by_prompt(scores: DoubleArray) -> DoubleArray:
        return request_coordinates(np.where(np.isfinite(scores), scores, -np.inf), owners)

    counted = np.array(
        [not prompt.harmful or observations.refused.get(row, False) for row, prompt in enumerate(prompts)]
    )

    def merit_by_prompt(scores: DoubleArray) -> float:
        return coverage(scores, np.isfinite(scores) & counted, prompts, false_open)

    def merit(scores: DoubleArray, _tested: BoolArray) -> float:
        return merit_by_prompt(by_prompt(scores))

    layers = candidate_layers(readings.ends.shape[1])
    fitted = fit_probe(rows, layers, merit, settings)
    out_of_fold, asked = by_prompt(fitted.out_of_fold), None
    if observations.asked is not None:
        about = ProbeRows(observations.asked, harmful, prompts, np.ones(len(prompts), dtype=bool))
        probe = fit_probe(about, layers, lambda scores, _tested: merit_by_prompt(scores), settings)
        by_share = {
            share: request_coordinates(fitted.out_of_fold, owners, probe.out_of_fold, share) for share in _SHARES
        }
        share = max(_SHARES, key=lambda one: merit_by_prompt(by_share[one]))
        if merit_by_prompt(by_share[share]) > merit_by_prompt(out_of_fold):
            out_of_fold, asked = by_share[share], AskedProbe(probe, share)
    return HarmGate(fitted, out_of_fold, _zones(out_of_fold, counted, prompts, false_open, false_close), asked)


def fit_refusal(observations: Observations, settings: ProbeSettings) -> FittedProbe:
    """Fit ``rho`` on the template ends of the prompts that were answered; its merit is the likelihood out of fold."""
    asked = sorted(observations.refused)
    rows = ProbeRows(
        values=observations.readings.ends[asked],
        labels=np.array([observations.refused[row] for row in asked]),
        prompts=tuple(observations.prompts[row] for row in asked),
        fit=np.ones(len(asked), dtype=bool),
    )

    def merit(scores: DoubleArray, tested: BoolArray) -> float:
        return -float(log_loss(scores[tested], rows.labels[tested]).mean())

    return fit_probe(rows, candidate_layers(rows.values.shape[1]), merit, settings)


def fit_answers(rows: ProbeRows, *, answer_open: float, false_close: float, settings: ProbeSettings) -> HarmGate:
    """Fit ``answer_h`` where the question about each answer is read.

    The zones bound P(benign | answer to a harmful request). Where steering flips hardly any attack there are too few
    such answers for a threshold of the language's own: it takes the most careful of the others, as any language does
    that has none. Validation then measures what comes of it.
    """

    def merit(scores: DoubleArray, tested: BoolArray) -> float:
        return coverage(scores, tested, rows.prompts, answer_open)

    fitted = fit_probe(rows, candidate_layers(rows.values.shape[1]), merit, settings)
    every = np.ones(len(rows.labels), dtype=bool)
    found = _zones(fitted.out_of_fold, every, rows.prompts, answer_open, false_close).by_language
    supported = {language: own for language, own in found.items() if own.benign_below > UNREACHABLE}
    return HarmGate(fitted, fitted.out_of_fold, zone_table(supported or found))


def coverage(scores: DoubleArray, tested: BoolArray, prompts: Sequence[LabelledPrompt], false_open: float) -> float:
    """Return the mean over languages of the share of benign trigger requests below the harmful rows' threshold.

    The threshold is the ``false_open / 2`` quantile of the harmful scores, the lower of both kinds: half the limit
    stands for the width of the interval that the real threshold must clear.
    """
    shares: list[float] = []
    for rows in _by_language(prompts).values():
        mine = rows[tested[rows]]
        benign = [scores[row] for row in mine if prompts[row].trigger]
        by_kind = _by_kind(scores, prompts, mine)
        if benign and by_kind:
            limit = min(float(np.quantile(kind, false_open / 2)) for kind, _ in by_kind.values())
            shares.append(float(np.mean(np.array(benign) < limit)))
    return float(np.mean(shares)) if shares else 0.0


def _zones(
    scores: DoubleArray,
    counted: BoolArray,
    prompts: Sequence[LabelledPrompt],
    false_open: float,
    false_close: float,
) -> ZoneTable:
    table: dict[str, ZoneThresholds] = {}
    for language, mine in sorted(_by_language(prompts).items()):
        rows = mine[counted[mine]]
        benign = np.array([row for row in rows if not prompts[row].harmful], dtype=np.int64)
        table[language] = thresholds(
            _by_kind(scores, prompts, rows),
            (scores[benign], [prompts[row].base_id for row in benign]),
            false_open=false_open,
            false_close=false_close,
        )
    return zone_table(table)


def _by_language(prompts: Sequence[LabelledPrompt]) -> dict[str, npt.NDArray[np.int64]]:
    languages: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        languages.setdefault(prompt.language, []).append(row)
    return {language: np.array(rows, dtype=np.int64) for language, rows in languages.items()}


def _by_kind(
    scores: DoubleArray, prompts: Sequence[LabelledPrompt], rows: npt.NDArray[np.int64]
) -> Mapping[str, tuple[DoubleArray, list[str]]]:
    """Return scores and base requests of the harmful rows, by kind."""
    kinds: dict[str, list[int]] = {}
    for row in rows.tolist():
        if prompts[row].harmful:
            kinds.setdefault(prompts[row].kind, []).append(row)
    return {kind: (scores[members], [prompts[row].base_id for row in members]) for kind, members in kinds.items()}
