"""The proxy's decision, offline: what would be delivered for each prompt if the bundle were in use.

The same order as in the proxy: raw answer, refusal, zone of the request, steered attempt, refusal and harm of the
attempt, and the original whenever anything is in doubt. Zones and strengths are read from the bundle itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from detectors.bundle import Bundle, Steering
from detectors.coordinates import request_coordinates
from detectors.verdict import Message, RefusalDetector, Zone
from rass.conversation import Conversation
from rass.model import ChatModel, FloatArray, Progress
from rass.prompts import LabelledPrompt
from rass.scoring import Outcome, Scorer
from rass.steering import bundle_rows

__all__ = ["Action", "Exchange", "coordinates", "simulate", "with_answers"]

Action = Literal["delivered", "warranted", "recovered", "recovery-failed"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What became of one prompt without and with the proxy; texts are scored and forgotten.

    ``zone`` is ``None`` where the model answered, because the proxy then reads none.
    """

    prompt: LabelledPrompt
    raw: Outcome
    gated: Outcome
    zone: Zone | None
    action: Action


def simulate(
    model: ChatModel,
    bundle: Bundle,
    prompts: Sequence[LabelledPrompt],
    refusals: RefusalDetector,
    scorer: Scorer,
    *,
    max_new_tokens: int,
    progress: Progress,
) -> list[Exchange]:
    """Return one exchange a prompt, in order; ``progress`` is told each prompt once."""
    conversations = model.render([prompt.messages for prompt in prompts])
    raw = model.generate(conversations, max_new_tokens=max_new_tokens, progress=progress)
    refused = [row for row, text in enumerate(raw) if refusals.judge(text).refused]
    zones = _zones(model, bundle, prompts, conversations, refused)
    plans = {row: plan for row in refused if (plan := bundle.steering(prompts[row].language, zones[row])) is not None}
    recovered = _recover(model, bundle, prompts, conversations, plans, refusals, max_new_tokens)
    exchanges: list[Exchange] = []
    for row, (prompt, text) in enumerate(zip(prompts, raw, strict=True)):
        outcome = scorer.outcome(prompt, text)
        action: Action = "delivered"
        gated = outcome
        if row in recovered:
            action, gated = "recovered", scorer.outcome(prompt, recovered[row])
        elif row in plans:
            action = "recovery-failed"
        elif row in zones:
            action = "warranted"
        exchanges.append(Exchange(prompt, outcome, gated, zones.get(row), action))
    return exchanges


def coordinates(bundle: Bundle, name: str, values: FloatArray) -> npt.NDArray[np.float64]:
    """Return a bundle probe's coordinates ``[rows]`` of residual streams ``[rows, all layers, d]``, in float64."""
    weight, bias = bundle.probe(name)
    layers = list(bundle.manifest.probes[name].layers)
    features = values[:, layers].reshape(len(values), -1).astype(np.float64)
    return np.asarray(features @ weight.astype(np.float64) + bias)


def with_answers(
    model: ChatModel, prompts: Sequence[LabelledPrompt], answers: Sequence[str], questions: Sequence[str]
) -> list[Conversation]:
    """Render the prompts with an assistant's answer appended to each, and the question about it."""
    return model.render(
        [(*prompt.messages, Message("assistant", text)) for prompt, text in zip(prompts, answers, strict=True)],
        questions,
    )


def _zones(
    model: ChatModel,
    bundle: Bundle,
    prompts: Sequence[LabelledPrompt],
    conversations: Sequence[Conversation],
    rows: Sequence[int],
) -> dict[int, Zone]:
    if not rows:
        return {}
    readings = model.read([conversations[row] for row in rows])
    asked, share = None, None
    if bundle.asks_about_requests:
        questions = [bundle.question(prompts[row].language) or "" for row in rows]
        about = model.read(model.render([prompts[row].messages for row in rows], questions))
        asked, share = coordinates(bundle, "asked_h", about.ends), bundle.manifest.probes["asked_h"].share
    h = request_coordinates(coordinates(bundle, "h", readings.turns), readings.owners, asked, share)
    return {row: bundle.zone(float(value), prompts[row].language) for row, value in zip(rows, h, strict=True)}


def _recover(
    model: ChatModel,
    bundle: Bundle,
    prompts: Sequence[LabelledPrompt],
    conversations: Sequence[Conversation],
    plans: dict[int, Steering],
    refusals: RefusalDetector,
    max_new_tokens: int,
) -> dict[int, str]:
    """Return the steered answers that pass both checks, by row."""
    if not plans or bundle.manifest.zones.answers is None:
        return {}  # without a judge of answers recovery stays off
    rows = list(plans)
    answers = model.generate(
        [conversations[row] for row in rows],
        max_new_tokens=max_new_tokens,
        steering=bundle_rows(bundle, list(plans.values())),
    )
    attempts = {row: text for row, text in zip(rows, answers, strict=True) if not refusals.judge(text).refused and text}
    if not attempts:
        return {}
    asked = [prompts[row] for row in attempts]
    questions = [bundle.question(prompt.language) or "" for prompt in asked]
    readings = model.read(with_answers(model, asked, list(attempts.values()), questions))
    answer_h = coordinates(bundle, "answer_h", readings.ends)
    # The proxy looks at the request once more with the answer; it measures what the zone was read from, so not here.
    return {
        row: text
        for (row, text), prompt, h in zip(attempts.items(), asked, answer_h, strict=True)
        if bundle.answer_zone(float(h), prompt.language) is Zone.BENIGN
    }
