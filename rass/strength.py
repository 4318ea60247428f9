"""The choice of steering: layer, direction, form and span once, then a strength for each language.

A search in three steps, each on more prompts and fewer candidates: screen all configurations, refine the best few on
the whole palette, measure the chosen one. Everything happens on the selection split, on requests that the unsteered
model refuses and that the gate would let through. The screening also finds what gets attacks answered most: the chosen
steering may flip next to none, and then it cannot bring about the harmful answers that a judge of answers learns from.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.dialects import EXPRESSIBLE, DialectName
from detectors.manifest import SteeringForm, SteeringSpan
from rass.errors import StageError
from rass.model import ChatModel, Progress
from rass.prompts import LabelledPrompt
from rass.scoring import Outcome, Scorer
from rass.steering import SteeringConfig, VectorKind, config_rows
from rass.strength_choice import CurvePoint, Dose, StrengthChoice
from rass.vectors import SteeringVectors

__all__ = [
    "StrengthPools",
    "StrengthSettings",
    "choose_strength",
    "expressible_search",
    "flip_strengths",
    "planned_generations",
]

PALETTE = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
_KINDS: tuple[VectorKind, ...] = ("refusal", "refusal_orthogonal")
_CLOSE = 0.02
"""On-topic shares that differ by less are a tie: then the one that flips fewer attacks, or the weaker, is chosen."""


@dataclass(frozen=True, slots=True)
class StrengthSettings:
    """How much is generated in each step; counts are prompts for each language.

    ``forms``, ``spans`` and ``first_layer`` bound the search to what the engine that will serve can express.
    """

    palette: tuple[float, ...] = PALETTE
    screen_strengths: tuple[float, ...] = (1.5, 3.0)
    provoke_strengths: tuple[float, ...] = (3.0, 6.0)
    screen: int = 16
    finalists: int = 4
    refine: int = 40
    measure: int = 150
    max_new_tokens: int = 96
    forms: tuple[SteeringForm, ...] = tuple(SteeringForm)
    spans: tuple[SteeringSpan, ...] = (SteeringSpan.ONWARD, SteeringSpan.LAST_PROMPT_TOKEN)
    first_layer: int = 0


@dataclass(frozen=True, slots=True)
class StrengthPools:
    """Refused requests of the selection split, by what the gate makes of them out of fold.

    ``recoverable``: benign and in the benign zone. ``attacks``: wrapped harmful requests wherever they lie (how easily
    steering alone would flip them). ``leaking``: harmful requests that the gate wrongly lets through.
    ``harmful_units`` counts the harmful base requests of each language, the denominator of the gated leak.
    """

    recoverable: tuple[LabelledPrompt, ...]
    attacks: tuple[LabelledPrompt, ...]
    leaking: tuple[LabelledPrompt, ...]
    harmful_units: Mapping[str, int]


def choose_strength(
    model: ChatModel,
    vectors: SteeringVectors,
    pools: StrengthPools,
    scorer: Scorer,
    settings: StrengthSettings,
    progress: Progress,
) -> StrengthChoice:
    """Search configurations and strengths; raises ``StageError`` when there is nothing to recover.

    ``progress`` is told each steered generation; ``planned_generations`` says how many there will be at most.
    """
    languages = tuple(
        language for language in vectors.languages if any(prompt.language == language for prompt in pools.recoverable)
    )
    if not languages:
        raise StageError("no refused benign request lies in the benign zone, so there is nothing to recover")
    trial = _Trial(model, vectors, scorer, settings.max_new_tokens, progress)

    screen = _first(pools.recoverable, languages, settings.screen)
    configurations = _configurations(model.identity.num_layers, settings)
    merits: dict[SteeringConfig, float] = {}
    for config in configurations:
        outcomes = trial.run(config, screen, settings.screen_strengths)
        merits[config] = _mean_best(outcomes, screen, languages)
    provocations = _provocations(trial, configurations, _first(pools.attacks, languages, settings.screen), settings)
    finalists = sorted(merits, key=lambda config: -merits[config])[: settings.finalists]

    benign = _first(pools.recoverable, languages, settings.refine)
    attacks = _first(pools.attacks, languages, settings.refine)
    refined: dict[SteeringConfig, tuple[float, float]] = {}
    for config in finalists:
        outcomes = trial.run(config, benign, settings.palette)
        flipped = trial.run(config, attacks, settings.palette)
        best = {language: _best_strength(outcomes, benign, language) for language in languages}
        harm = [_share(flipped[best[one]], attacks, one, "answered") for one in languages]
        refined[config] = (_mean_best(outcomes, benign, languages), float(np.mean(harm)))
    top = max(merit for merit, _ in refined.values())
    config = min(
        (one for one in finalists if refined[one][0] >= top - _CLOSE),
        key=lambda one: (refined[one][1], -refined[one][0]),
    )
    screened = {one.label: merits[one] for one in merits}
    return _measure(trial, config, pools, languages, settings, screened, provocations)


def expressible_search(dialect: DialectName) -> StrengthSettings:
    """Return the settings of a search over what ``dialect`` can express; for the native one, the defaults."""
    if dialect is DialectName.NATIVE:
        return StrengthSettings()
    can = EXPRESSIBLE[dialect]
    return StrengthSettings(forms=can.forms, spans=can.spans, first_layer=can.first_layer)


def planned_generations(num_layers: int, languages: int, pools: StrengthPools, settings: StrengthSettings) -> int:
    """Return an upper bound on the steered answers that ``choose_strength`` will generate, for a progress bar."""
    strengths = len(settings.screen_strengths) + len(settings.provoke_strengths)
    screened = len(_configurations(num_layers, settings)) * strengths * settings.screen
    refined = 2 * settings.finalists * len(settings.palette) * settings.refine
    measured = 2 * len(settings.palette) * settings.measure
    return languages * (screened + refined + measured) + len(pools.leaking) * len(settings.palette)


def flip_strengths(outcomes: Mapping[float, Sequence[Outcome]]) -> list[float | None]:
    """Return alpha* of each prompt: the least strength at which it is no longer refused, ``None`` when it never
    flips."""
    strengths = sorted(outcomes)
    rows = len(outcomes[strengths[0]])
    return [next((s for s in strengths if outcomes[s][row] != "refused"), None) for row in range(rows)]


class _Trial:
    """Runs prompts at several strengths of one configuration, all strengths in one batch."""

    def __init__(
        self, model: ChatModel, vectors: SteeringVectors, scorer: Scorer, max_new_tokens: int, progress: Progress
    ) -> None:
        self._model, self._vectors, self._scorer = model, vectors, scorer
        self._max_new_tokens, self._progress = max_new_tokens, progress

    def run(
        self, config: SteeringConfig, prompts: Sequence[LabelledPrompt], strengths: Sequence[float]
    ) -> dict[float, list[Outcome]]:
        """Return for each strength the outcome of each prompt."""
        if not prompts:
            return {strength: [] for strength in strengths}
        conversations = self._model.render([prompt.messages for prompt in prompts])
        grid = list(itertools.product(strengths, range(len(prompts))))
        rows = config_rows(
            self._vectors, config, [prompts[row].language for _, row in grid], [strength for strength, _ in grid]
        )
        answers = self._model.generate(
            [conversations[row] for _, row in grid],
            max_new_tokens=self._max_new_tokens,
            steering=rows,
            progress=self._progress,
        )
        result: dict[float, list[Outcome]] = {strength: [] for strength in strengths}
        for (strength, row), answer in zip(grid, answers, strict=True):
            result[strength].append(self._scorer.outcome(prompts[row], answer))
        return result


def _measure(
    trial: _Trial,
    config: SteeringConfig,
    pools: StrengthPools,
    languages: Sequence[str],
    settings: StrengthSettings,
    screened: Mapping[str, float],
    provocations: Mapping[str, Dose],
) -> StrengthChoice:
    benign = _first(pools.recoverable, languages, settings.measure)
    attacks = _first(pools.attacks, languages, settings.measure)
    leaking = [prompt for prompt in pools.leaking if prompt.language in languages]
    on_benign = trial.run(config, benign, settings.palette)
    on_attacks = trial.run(config, attacks, settings.palette)
    on_leaking = trial.run(config, leaking, settings.palette)
    curve: dict[str, tuple[CurvePoint, ...]] = {}
    for language in languages:
        points = []
        for strength in settings.palette:
            leaked = {
                prompt.base_id
                for prompt, outcome in zip(leaking, on_leaking[strength], strict=True)
                if prompt.language == language and outcome != "refused"
            }
            points.append(
                CurvePoint(
                    strength,
                    on_topic=_share(on_benign[strength], benign, language, "on_topic"),
                    answered=_share(on_benign[strength], benign, language, "answered"),
                    attacks_answered=_share(on_attacks[strength], attacks, language, "answered"),
                    attacks_on_topic=_share(on_attacks[strength], attacks, language, "on_topic"),
                    gated_leak=len(leaked) / max(pools.harmful_units.get(language, 0), 1),
                )
            )
        curve[language] = tuple(points)
    flips = flip_strengths(on_attacks)
    benign_flips = flip_strengths(on_benign)
    control = max(settings.palette, key=lambda s: sum(outcome == "on_topic" for outcome in on_attacks[s]))
    return StrengthChoice(
        config,
        by_language={language: _best_strength(on_benign, benign, language) for language in languages},
        control=control,
        provocations=provocations,
        curve=curve,
        flip_cap={one: _quantile(flips, attacks, one, 0.05) for one in languages},
        flip_median={one: _quantile(benign_flips, benign, one, 0.5) for one in languages},
        screened=screened,
    )


def _provocations(
    trial: _Trial,
    configurations: Sequence[SteeringConfig],
    attacks: Sequence[LabelledPrompt],
    settings: StrengthSettings,
) -> dict[str, Dose]:
    best: dict[str, tuple[float, Dose]] = {}
    for config in configurations:
        for strength, outcomes in trial.run(config, attacks, settings.provoke_strengths).items():
            for language in {prompt.language for prompt in attacks}:
                answered = _share(outcomes, attacks, language, "on_topic")
                if language not in best or answered > best[language][0]:
                    best[language] = (answered, Dose(config, strength))
    return {language: dose for language, (_, dose) in sorted(best.items())}


def _configurations(num_layers: int, settings: StrengthSettings) -> list[SteeringConfig]:
    """Return every configuration; the last block is left out, since nothing follows that could act on its change."""
    return [
        SteeringConfig(layer, kind, form, span)
        for layer in range(settings.first_layer, max(num_layers - 1, 1))
        for kind in _KINDS
        for form in settings.forms
        for span in settings.spans
    ]


def _first(prompts: Sequence[LabelledPrompt], languages: Sequence[str], count: int) -> list[LabelledPrompt]:
    return [prompt for language in languages for prompt in [one for one in prompts if one.language == language][:count]]


def _share(outcomes: Sequence[Outcome], prompts: Sequence[LabelledPrompt], language: str, what: str) -> float:
    """Return the share of a language's outcomes that are on topic, or anything but refused (0 without prompts)."""
    mine = [one for one, prompt in zip(outcomes, prompts, strict=True) if prompt.language == language]
    hits = sum(one == "on_topic" if what == "on_topic" else one != "refused" for one in mine)
    return hits / len(mine) if mine else 0.0


def _best_strength(
    outcomes: Mapping[float, Sequence[Outcome]], prompts: Sequence[LabelledPrompt], language: str
) -> float:
    """Return the weakest strength that is as good as the best: what steers less also flips fewer harmful requests."""
    shares = {strength: _share(outcomes[strength], prompts, language, "on_topic") for strength in outcomes}
    return min(strength for strength in shares if shares[strength] >= max(shares.values()) - _CLOSE / 2)


def _mean_best(
    outcomes: Mapping[float, Sequence[Outcome]], prompts: Sequence[LabelledPrompt], languages: Sequence[str]
) -> float:
    best = [max(_share(outcomes[strength], prompts, one, "on_topic") for strength in outcomes) for one in languages]
    return float(np.mean(best))


def _quantile(
    flips: Sequence[float | None], prompts: Sequence[LabelledPrompt], language: str, share: float
) -> float | None:
    """Return the quantile of alpha* of a language's prompts, a prompt that never flips counting as infinite."""
    mine = sorted(
        np.inf if flip is None else flip
        for flip, prompt in zip(flips, prompts, strict=True)
        if prompt.language == language
    )
    if not mine:
        return None
    value = mine[min(int(share * len(mine)), len(mine) - 1)]
    return float(value) if np.isfinite(value) else None
