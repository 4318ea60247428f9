"""What the unsteered model does with a prompt set: its activations and whether it refuses.

Activations are read for every prompt. Answers cost far more, so they are generated for an even sample of each
(language, kind); only whether they refuse is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.verdict import RefusalDetector
from rass.model import ChatModel, FloatArray, Progress, Readings
from rass.prompts import LabelledPrompt, PromptSet

__all__ = ["Observations", "observe", "sample_evenly"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Observations:
    """Activations of all prompts, and for those that were answered whether the model refused.

    ``refused`` maps row numbers to the verdict; a row that is not in it was not asked.
    """

    prompts: tuple[LabelledPrompt, ...]
    readings: Readings
    refused: Mapping[int, bool]

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
    read_progress: Progress,
    answer_progress: Progress,
) -> Observations:
    """Read all prompts and answer at most ``answers_per_kind`` of each (language, kind)."""
    conversations = model.render([prompt.messages for prompt in prompts])
    readings = model.read(conversations, progress=read_progress)
    asked = sample_evenly(prompts.prompts, answers_per_kind)
    answers = model.generate(
        [conversations[row] for row in asked], max_new_tokens=max_new_tokens, progress=answer_progress
    )
    refused = {row: refusals.judge(text).refused for row, text in zip(asked, answers, strict=True)}
    return Observations(prompts.prompts, readings, refused)


def sample_evenly(prompts: Sequence[LabelledPrompt], per_kind: int) -> list[int]:
    """Return rows: up to ``per_kind`` of each (language, kind), going round its (verb, category, wrapping) cells in
    turn.

    The choice follows a hash of the id and so neither the order of the prompts nor a random state.
    """
    groups: dict[tuple[str, str], dict[tuple[str, ...], list[int]]] = {}
    for row in sorted(range(len(prompts)), key=lambda row: hashlib.sha256(prompts[row].id.encode()).digest()):
        prompt = prompts[row]
        cells = groups.setdefault((prompt.language, prompt.kind), {})
        cells.setdefault((*prompt.cell, prompt.wrapping or ""), []).append(row)
    chosen: list[int] = []
    for cells in groups.values():
        queues = list(cells.values())
        depth = 0
        taken: list[int] = []
        while len(taken) < per_kind and any(depth < len(queue) for queue in queues):
            taken += [queue[depth] for queue in queues if depth < len(queue)]
            depth += 1
        chosen += taken[:per_kind]
    return sorted(chosen)
