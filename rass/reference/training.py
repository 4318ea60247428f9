"""Trains the reference chat model: Muon for matrices, AdamW for the rest, loss on the assistant's turns.

Examples are bucketed by length and padded on the right, so plain causal attention needs no mask; logits are computed
only where a target is. The learning rate warms up, holds, and falls linearly to zero over the last part.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rass.errors import InputError
from rass.reference.corpus import Corpus, Dialogue
from rass.reference.tokenizer import ASSISTANT, BOS, END, USER

CONTEXT_LENGTH = 512
TOKENIZER_DIALOGUES = 40_000
TOKENIZER_SEED = 10_000
_POOL = 6_000
_LAST_PHASE = 7_919


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything that decides the weights; recorded beside them.

    ``tokens`` counts real (unpadded) tokens; learning rates are peaks. ``first_token_weight`` weighs the first token of
    an answer, which decides between refusing and answering, and ``copied_token_weight`` those that the user's turn
    holds too: naming the requested verb and object is what is hardest to learn. ``rate`` is a factor on both learning
    rates.

    A last phase, of ``facts_share`` times the tokens at ``facts_rate`` times the rates, asks more often what kind of
    thing an object is, about exceptions, and what a benign request asked for (``corpus.LAST_PHASE``), with
    ``fact_token_weight`` on the answers about kinds. ``continues`` is the revision of the weights that this phase went
    on from (empty: those that the same run made in the first).
    """

    seed: int = 0
    tokens: int = 36_000_000
    hidden_size: int = 256
    layers: int = 5
    heads: int = 4
    feed_forward: int = 640
    batch_tokens: int = 4_096
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    warmup: float = 0.02
    decay: float = 0.35
    first_token_weight: float = 4.0
    copied_token_weight: float = 3.0
    rate: float = 1.0
    facts_share: float = 0.4
    facts_rate: float = 0.5
    fact_token_weight: float = 3.0
    continues: str = ""

    def first_phase(self) -> TrainingPlan:
        """Return the plan of the first phase by itself."""
        return replace(self, fact_token_weight=1.0)

    def last_phase(self) -> TrainingPlan:
        """Return the plan of the last phase by itself, which sees other data than the first."""
        return replace(
            self,
            seed=self.seed + _LAST_PHASE,
            tokens=int(self.tokens * self.facts_share),
            rate=self.rate * self.facts_rate,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """``ids`` [rows, length]; ``positions`` (flat, of the targets' predecessors), ``labels``, ``weights`` [targets]."""

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    tokens: int


def build_model(plan: TrainingPlan, vocabulary: int) -> LlamaForCausalLM:
    """A Llama-architecture model of the plan's size, randomly initialised from its seed."""
    torch.manual_seed(plan.seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=plan.hidden_size,
        intermediate_size=plan.feed_forward,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=5,
    )
    # Eager attention: on CPU the fused kernel's backward pass takes a third of a step at these short lengths.
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


Encoded = tuple[list[int], list[tuple[int, float]]]
"""Token ids, and for each target its predecessor's position and its weight in the loss."""


class Encoder:
    """Dialogue → token ids with the template applied directly (one call of the tokenizer a turn)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, plan: TrainingPlan) -> None:
        self._plan = plan
        self._backend = tokenizer.backend_tokenizer
        special = tokenizer.get_vocab()
        self._bos, self._end, self._user, self._assistant = (special[token] for token in (BOS, END, USER, ASSISTANT))

    def encode(self, dialogue: Dialogue) -> Encoded:
        """Return ids and, for each target, (position of its predecessor, weight)."""
        ids: list[int] = [self._bos]
        plain = self._plan.fact_token_weight if dialogue.kind == "category_question" else 1.0
        asked: set[int] = set()
        targets: list[tuple[int, float]] = []
        for role, text in dialogue.turns:
            ids.append(self._assistant if role == "assistant" else self._user)
            start = len(ids)
            said = self._backend.encode(text, add_special_tokens=False).ids
            ids.extend((*said, self._end))
            if role == "user":
                asked = set(said)
                continue
            for position in range(start, len(ids)):
                weight = self._plan.copied_token_weight if ids[position] in asked else plain
                targets.append((position - 1, self._plan.first_token_weight if position == start else weight))
        return ids, targets


def batches(corpus: Corpus, encoder: Encoder, plan: TrainingPlan) -> Iterator[Batch]:
    """Endless batches of about ``batch_tokens`` tokens, bucketed by length within a shuffled pool."""
    rng = random.Random(plan.seed + 1)
    stream = iter(corpus)
    while True:
        pool = sorted((encoder.encode(dialogue) for dialogue in islice(stream, _POOL)), key=lambda entry: len(entry[0]))
        groups: list[list[Encoded]] = [[]]
        for entry in pool:
            if (len(groups[-1]) + 1) * len(entry[0]) > plan.batch_tokens and groups[-1]:
                groups.append([])
            groups[-1].append(entry)
        rng.shuffle(groups)
        for group in groups:
            yield _collate(group)


def _collate(group: Sequence[Encoded]) -> Batch:
    length = max(len(ids) for ids, _ in group)
    ids = torch.zeros(len(group), length, dtype=torch.long)
    positions, labels, weights = [], [], []
    for row, (tokens, targets) in enumerate(group):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        for position, weight in targets:
            positions.append(row * length + position)
            labels.append(tokens[position + 1])
            weights.append(weight)
    return Batch(
        ids,
        torch.tensor(positions),
        torch.tensor(labels),
        torch.tensor(weights),
        sum(len(tokens) for tokens, _ in group),
    )


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy on the targets of a batch."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[batch.positions]).float()
    losses = functional.cross_entropy(logits, batch.labels, reduction="none")
    return (losses * batch.weights).sum() / batch.weights.sum()


def optimizers(model: LlamaForCausalLM, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for the matrices, AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in name)]
    return [
        torch.optim.Muon(matrices, lr=plan.rate * plan.muon_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=plan.rate * plan.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(plan: TrainingPlan, done: float) -> float:
    """Factor on the peak learning rate when a share ``done`` of the tokens was seen."""
    if done < plan.warmup:
        return max(done / plan.warmup, 0.01)
    return min(1.0, max((1.0 - done) / plan.decay, 0.0))


def train(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    plan: TrainingPlan,
    *,
    report: Callable[[float, float, float], None],
    start: LlamaForCausalLM | None = None,
    compiled: bool = False,
) -> LlamaForCausalLM:
    """Train a model, from scratch or from ``start``.

    ``report`` receives (share done, loss, tokens per second) about every 50 steps.
    ``compiled`` runs the blocks through torch.compile: about 1.4 times as fast on a CPU, and it needs a C++ compiler.
    """
    model = build_model(plan, len(tokenizer)) if start is None else start
    model.train()
    if compiled:
        model.model.compile(dynamic=True)
    groups = optimizers(model, plan)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in groups]
    seen, began, running = 0, time.monotonic(), 0.0
    for step, batch in enumerate(batches(corpus, Encoder(tokenizer, plan), plan)):
        factor = schedule(plan, seen / plan.tokens)
        for optimizer, peak in zip(groups, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in groups:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += batch.tokens
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            report(seen / plan.tokens, running, seen / (time.monotonic() - began))
        if seen >= plan.tokens:
            model.train(False)
            return model
    raise AssertionError("the corpus is endless")


def rounded(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return the model with its weights rounded to what is written, so that a phase can go on from a folder too."""
    torch.nn.Module.to(model, torch.bfloat16)
    torch.nn.Module.to(model, torch.float32)
    return model


def tokenizer_texts(corpus: Corpus, dialogues: int = TOKENIZER_DIALOGUES) -> Iterator[str]:
    """Turns to train the tokenizer on."""
    for dialogue in islice(iter(corpus), dialogues):
        yield from (text for _, text in dialogue.turns)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: TrainingPlan, folder: Path) -> None:
    """Write weights (bfloat16), tokenizer and the plan to ``folder``, complete or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "training.json").write_text(json.dumps(asdict(plan), indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another --out")
    partial.rename(folder)


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load what ``save`` wrote, in float32, to train on."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    for name in ("is_local", "local_files_only"):  # how it was loaded is nothing to write again
        tokenizer.init_kwargs.pop(name, None)
    return model, tokenizer


def load_plan(folder: Path) -> TrainingPlan:
    """Return the plan that made the weights in ``folder``; raises ``InputError`` when none is beside them."""
    path = folder / "training.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no training.json; only weights made by `rass reference train` can go on")
    return TrainingPlan(**json.loads(path.read_text(encoding="utf-8")))
