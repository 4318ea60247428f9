"""What the unsteered model does with a prompt set: its activations and whether it refuses.

Activations are read for every prompt. Answers cost far more, so they are generated for an even sample of each
(language, kind); only whether they refuse is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from detectors.verdict import RefusalDetector
from rass.model import ChatModel, FloatArray, Progress, Readings
from rass.prompts import LabelledPrompt, PromptSet
from rass.questions import question_for

__all__ = ["Observations", "even_order", "observe", "sample_evenly"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Observations:
    """Activations of all prompts, and for those that were answered whether the model refused.

    ``refused`` maps row numbers to the verdict; a row that is not in it was not answered. ``asked`` ``[rows, layers,
    d]`` are the residual streams after the question whether the request was harmful, ``None`` where the chat template
    takes no second user turn in a row.
    """

    prompts: tuple[LabelledPrompt, ...]
    readings: Readings
    refused: Mapping[int, bool]
    asked: FloatArray | None = None

    @property
    def last_turns(self) -> FloatArray:
        """Residual streams ``[rows, layers, d]`` at the end of each prompt's last user turn."""
        last = np.searchsorted(self.readings.owners, np.arange(len(self.prompts)), side="right") - 1
        return self.readings.turns[last]

    def rows(self, *, harmful: bool, refused: bool) -> IntArray:
        """Return the rows that were answered, with these labels."""
        chosen = [row for row, verdict in self.refused.items() if verdict is refused]
        return np.array(sorted(row for row in chosen if self.prompts[row].harmful is harmful), dtype=np.int64)


def observe(
    model: ChatModel,
    prompts: PromptSet,
    refusals: RefusalDetector,
    *,
    answers_per_kind: int,
    max_new_tokens: int,
    seed: int,
    read_progress: Progress,
    answer_progress: Progress,
) -> Observations:
    """Read all prompts and answer at most ``answers_per_kind`` of each (language, kind)."""
    conversations = model.render([prompt.messages for prompt in prompts])
    readings = model.read(conversations, progress=read_progress)
    asked = _asked(model, prompts.prompts, read_progress)
    sample = sample_evenly(prompts.prompts, answers_per_kind, seed=seed)
    answers = model.generate(
        [conversations[row] for row in sample], max_new_tokens=max_new_tokens, progress=answer_progress
    )
    refused = {row: refusals.judge(text).refused for row, text in zip(sample, answers, strict=True)}
    return Observations(prompts.prompts, readings, refused, asked)


def _asked(model: ChatModel, prompts: Sequence[LabelledPrompt], progress: Progress) -> FloatArray | None:
    questions = [question_for(prompt.language) for prompt in prompts]
    try:
        conversations = model.render([prompt.messages for prompt in prompts], questions)
    except TemplateError:
        progress(len(prompts))
        return None
    return model.read(conversations, progress=progress).ends


def sample_evenly(prompts: Sequence[LabelledPrompt], per_kind: int, *, seed: int) -> list[int]:
    """Return rows, in order: the first ``per_kind`` of each (language, kind) in ``even_order``."""
    taken: dict[tuple[str, str], int] = {}
    chosen: list[int] = []
    for row in even_order(prompts, range(len(prompts)), seed=seed):
        kind = (prompts[row].language, prompts[row].kind)
        if taken.get(kind, 0) < per_kind:
            taken[kind] = taken.get(kind, 0) + 1
            chosen.append(row)
    return sorted(chosen)


def even_order(prompts: Sequence[LabelledPrompt], rows: Iterable[int], *, seed: int) -> list[int]:
    """Order rows so that every prefix is even over the (language, kind, verb, category, wrapping) cells.

    Within a cell the order follows a hash of seed and id, so it depends neither on the order of the prompts nor on a
    random state: a smaller sample is always part of a larger one.
    """
    ranked = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{prompts[row].id}".encode()).digest())
    depth: dict[tuple[str, ...], int] = {}
    rounds: list[tuple[int, int]] = []
    for row in ranked:
        prompt = prompts[row]
        cell = (prompt.language, prompt.kind, *prompt.cell, prompt.wrapping or "")
        rounds.append((depth.get(cell, 0), row))
        depth[cell] = depth.get(cell, 0) + 1
    return [row for _, row in sorted(rounds, key=lambda one: one[0])]
