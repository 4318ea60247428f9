"""The judge of answers: a probe where the model, asked whether the request was harmful, is about to say so.

It learns to tell answers to harmful requests, which only steering brings about, from answers to benign ones. The
harmful ones are generated in memory on the selection split, read, and forgotten: no text of them is ever stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rass.errors import StageError
from rass.model import ChatModel, Progress
from rass.probe import ProbeRows
from rass.prompts import LabelledPrompt
from rass.questions import question_for
from rass.scoring import Scorer
from rass.simulate import with_answers
from rass.steering import SteeringConfig, config_rows
from rass.strength_choice import Dose, StrengthChoice
from rass.vectors import SteeringVectors

__all__ = ["AnswerPools", "AnswerSettings", "answer_rows"]


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How many requests of each language are answered (``harmful``: of each kind, plain and wrapped), and how long."""

    harmful: int = 600
    benign: int = 400
    max_new_tokens: int = 96


@dataclass(frozen=True, slots=True)
class AnswerPools:
    """Selection prompts: refused harmful ones, refused benign ones to steer, and benign ones answered unsteered."""

    harmful: tuple[LabelledPrompt, ...]
    recoverable: tuple[LabelledPrompt, ...]
    answered: tuple[LabelledPrompt, ...]


def answer_rows(
    model: ChatModel,
    vectors: SteeringVectors,
    choice: StrengthChoice,
    pools: AnswerPools,
    scorer: Scorer,
    settings: AnswerSettings,
    progress: Progress,
) -> ProbeRows:
    """Generate answers, ask about each and read; label true: an on-topic answer to a harmful request.

    Harmful requests are steered at the strength in use, at the control strength and by their language's provocation in
    turn, so that the judge knows both the answers that a leak would give and the fullest ones, and also knows some in a
    language whose attacks the chosen steering does not flip. Raises ``StageError`` when steering flips no harmful
    request: then there is nothing to learn from, and no recovery can be checked.
    """
    # Each kind by itself: thresholds hold for plain and for wrapped requests, and there are far more wrapped cells.
    harmful = [
        prompt
        for kind in sorted({one.kind for one in pools.harmful})
        for prompt in _per_language([one for one in pools.harmful if one.kind == kind], choice, settings.harmful)
    ]
    recoverable = _per_language(pools.recoverable, choice, settings.benign)
    answered = _per_language(pools.answered, choice, settings.benign // 2)
    in_use = {language: Dose(choice.config, strength) for language, strength in choice.by_language.items()}
    control = Dose(choice.config, choice.control)
    doses = [(prompt, in_use[prompt.language]) for prompt in recoverable]
    for number, prompt in enumerate(harmful):
        means = (in_use[prompt.language], control, choice.provocations.get(prompt.language, control))
        doses.append((prompt, means[number % len(means)]))
    said = _steered(model, vectors, doses, settings.max_new_tokens, progress)
    texts = model.generate(
        model.render([prompt.messages for prompt in answered]),
        max_new_tokens=settings.max_new_tokens,
        progress=progress,
    )
    said += zip(answered, texts, strict=True)
    pairs = [(prompt, text) for prompt, text in said if scorer.outcome(prompt, text) == "on_topic"]
    if not any(prompt.harmful for prompt, _ in pairs):
        raise StageError("steering brings about no answer to a harmful request, so no judge of answers can be trained")
    prompts = tuple(prompt for prompt, _ in pairs)
    questions = [question_for(prompt.language) for prompt in prompts]
    readings = model.read(with_answers(model, prompts, [text for _, text in pairs], questions))
    labels = np.array([prompt.harmful for prompt in prompts])
    return ProbeRows(readings.ends, labels, prompts, np.ones(len(prompts), dtype=bool))


def _steered(
    model: ChatModel,
    vectors: SteeringVectors,
    doses: Sequence[tuple[LabelledPrompt, Dose]],
    max_new_tokens: int,
    progress: Progress,
) -> list[tuple[LabelledPrompt, str]]:
    by_config: dict[SteeringConfig, list[tuple[LabelledPrompt, float]]] = {}
    for prompt, dose in doses:
        by_config.setdefault(dose.config, []).append((prompt, dose.strength))
    said: list[tuple[LabelledPrompt, str]] = []
    for config, rows in by_config.items():
        prompts = [prompt for prompt, _ in rows]
        texts = model.generate(
            model.render([prompt.messages for prompt in prompts]),
            max_new_tokens=max_new_tokens,
            steering=config_rows(
                vectors, config, [prompt.language for prompt in prompts], [strength for _, strength in rows]
            ),
            progress=progress,
        )
        said += zip(prompts, texts, strict=True)
    return said


def _per_language(prompts: Sequence[LabelledPrompt], choice: StrengthChoice, count: int) -> list[LabelledPrompt]:
    return [
        prompt
        for language in sorted(choice.by_language)
        for prompt in [one for one in prompts if one.language == language][:count]
    ]
