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
from rass.steering import config_rows
from rass.strength import StrengthChoice
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

    Harmful requests are steered at the strength in use and at the control strength in turn, so that the judge knows
    both the answers that a leak would give and the fullest ones. Raises ``StageError`` when steering flips no harmful
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
    steered = [*harmful, *recoverable]
    strengths = [
        choice.control if prompt.harmful and number % 2 else choice.by_language[prompt.language]
        for number, prompt in enumerate(steered)
    ]
    texts = model.generate(
        model.render([prompt.messages for prompt in steered]),
        max_new_tokens=settings.max_new_tokens,
        steering=config_rows(vectors, choice.config, [prompt.language for prompt in steered], strengths),
        progress=progress,
    )
    texts += model.generate(
        model.render([prompt.messages for prompt in answered]),
        max_new_tokens=settings.max_new_tokens,
        progress=progress,
    )
    pairs = [
        (prompt, text)
        for prompt, text in zip([*steered, *answered], texts, strict=True)
        if scorer.outcome(prompt, text) == "on_topic"
    ]
    if not any(prompt.harmful for prompt, _ in pairs):
        raise StageError("steering brings about no answer to a harmful request, so no judge of answers can be trained")
    prompts = tuple(prompt for prompt, _ in pairs)
    questions = [question_for(prompt.language) for prompt in prompts]
    readings = model.read(with_answers(model, prompts, [text for _, text in pairs], questions))
    labels = np.array([prompt.harmful for prompt in prompts])
    return ProbeRows(readings.ends, labels, prompts, np.ones(len(prompts), dtype=bool))


def _per_language(prompts: Sequence[LabelledPrompt], choice: StrengthChoice, count: int) -> list[LabelledPrompt]:
    return [
        prompt
        for language in sorted(choice.by_language)
        for prompt in [one for one in prompts if one.language == language][:count]
    ]
