"""A causal chat model behind a small protocol: render, read, generate greedily, compare distributions.

The pipeline knows the model only as ``ChatModel``. ``TransformersModel`` is the implementation on transformers; batches
are made of rows of similar length, results come back in the order of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from detectors.manifest import ModelIdentity, SteeringSpan
from detectors.verdict import Message
from rass.conversation import Conversation, TemplateTokenizer, render
from rass.errors import InputError, ModelLoadError
from rass.hooks import RowSteering, decoder_blocks, record, steer
from rass.identity import LAYER_CONVENTION, ModelSource
from rass.pretrained import load_pretrained

__all__ = ["ChatModel", "Progress", "Readings", "TransformersModel", "load_model"]

FloatArray = npt.NDArray[np.float32]
Progress = Callable[[int], None]
"""Told the number of rows that were just finished."""


def _silent(_rows: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Readings:
    """Residual streams of conversations, after every block.

    ``turns`` is ``[user turns of all rows, layers, d]`` at the answer starts, ``owners`` ``[user turns]`` the row of
    each, in ascending order; ``ends`` is ``[rows, layers, d]`` at the template or answer end.
    """

    turns: FloatArray
    owners: npt.NDArray[np.int64]
    ends: FloatArray


class ChatModel(Protocol):
    """A chat model that can be read and steered."""

    @property
    def identity(self) -> ModelIdentity:
        """Name, revision and shape of the model."""
        ...

    def render(
        self, dialogues: Sequence[Sequence[Message]], questions: Sequence[str] | None = None
    ) -> list[Conversation]:
        """Render dialogues with the chat template, each followed by its question if there are any.

        Raises ``InputError`` for one that leaves no room to answer.
        """
        ...

    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        steering: RowSteering | None = None,
        progress: Progress = _silent,
    ) -> Readings:
        """Read every block at every position of interest, in one forward pass a batch."""
        ...

    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        steering: RowSteering | None = None,
        progress: Progress = _silent,
    ) -> list[str]:
        """Return the greedy answers as text without special tokens, in the order of the conversations."""
        ...

    def divergence(
        self, conversations: Sequence[Conversation], answers: Sequence[str], steering: RowSteering, *, tokens: int
    ) -> npt.NDArray[np.float64]:
        """Return KL(unsteered || steered) in nats, for each row the mean over its answer's first ``tokens`` tokens."""
        ...


class TransformersModel:
    """``ChatModel`` on a transformers causal LM in evaluation mode; rows with strength 0 run unsteered."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_id: str,
        revision: str,
        batch_rows: int = 256,
    ) -> None:
        model.train(False)
        self._model = model
        self._tokenizer = tokenizer
        self._chat = TemplateTokenizer(tokenizer)
        self._blocks = decoder_blocks(model)
        self._batch_rows = batch_rows
        self._context = int(model.config.max_position_embeddings)
        self._stops = _stop_ids(model, tokenizer)
        self.identity = ModelIdentity(
            model_id, revision, int(model.config.hidden_size), len(self._blocks), LAYER_CONVENTION
        )

    def render(
        self, dialogues: Sequence[Sequence[Message]], questions: Sequence[str] | None = None
    ) -> list[Conversation]:
        """Render dialogues with the chat template, each followed by its question if there are any.

        Raises ``InputError`` for one that leaves no room to answer.
        """
        conversations = render(self._chat, dialogues, questions)
        for index, conversation in enumerate(conversations):
            speaks = conversation.asked or not conversation.answered
            if len(conversation.token_ids) + speaks > self._context:
                length = len(conversation.token_ids)
                raise InputError(f"conversation {index} has {length} tokens, the model's context is {self._context}")
        return conversations

    @torch.inference_mode()
    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        steering: RowSteering | None = None,
        progress: Progress = _silent,
    ) -> Readings:
        """Read every block at every position of interest, in one forward pass a batch."""
        turn_counts = [len(conversation.answer_starts) for conversation in conversations]
        starts = np.concatenate([[0], np.cumsum(turn_counts)]).astype(np.int64)
        shape = (len(self._blocks), self.identity.hidden_size)
        turns = np.empty((int(starts[-1]), *shape), dtype=np.float32)
        ends = np.empty((len(conversations), *shape), dtype=np.float32)
        for batch in self._batches(conversations):
            rows, positions, targets = [], [], []
            for row, index in enumerate(batch):
                for turn, position in enumerate(conversations[index].answer_starts):
                    rows.append(row)
                    positions.append(position)
                    targets.append(int(starts[index]) + turn)
            rows += range(len(batch))
            positions += [conversations[index].end for index in batch]
            # Right padding needs no mask: causal attention never looks right, and no padded position is read.
            ids = self._padded([conversations[index].token_ids for index in batch], left=False)
            where = (torch.tensor(rows, device=ids.device), torch.tensor(positions, device=ids.device))
            with (
                steer(self._blocks, steering.select(torch.tensor(batch))) if steering else nullcontext() as steerer,
                record(self._blocks, *where) as recorded,
            ):
                if steerer is not None and steering is not None:
                    steerer.positions = _spans(conversations, batch, ids, steering.span)
                self._model.base_model(input_ids=ids, use_cache=False)
            values = torch.stack(recorded, dim=1).float().cpu().numpy()
            turns[targets] = values[: len(targets)]
            ends[batch] = values[len(targets) :]
            progress(len(batch))
        return Readings(turns, np.repeat(np.arange(len(conversations)), turn_counts), ends)

    @torch.inference_mode()
    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        steering: RowSteering | None = None,
        progress: Progress = _silent,
    ) -> list[str]:
        """Return the greedy answers as text without special tokens, in the order of the conversations."""
        answers: list[list[int]] = [[] for _ in conversations]
        for batch in self._batches(conversations):
            prompts = [conversations[index].token_ids for index in batch]
            room = min(max_new_tokens, self._context - max(len(prompt) for prompt in prompts))
            chosen = steering.select(torch.tensor(batch)) if steering else None
            for row, tokens in enumerate(self._greedy(prompts, room, chosen)):
                answers[batch[row]] = tokens
            progress(len(batch))
        return [str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens in answers]

    @torch.inference_mode()
    def divergence(
        self, conversations: Sequence[Conversation], answers: Sequence[str], steering: RowSteering, *, tokens: int
    ) -> npt.NDArray[np.float64]:
        """Return KL(unsteered || steered) in nats, for each row the mean over its answer's first ``tokens`` tokens."""
        answer_ids = [ids[:tokens] for ids in self._chat.ids(answers)]
        wholes = [
            Conversation((*conversation.token_ids, *ids), conversation.answer_starts, answered=True)
            for conversation, ids in zip(conversations, answer_ids, strict=True)
        ]
        result = np.zeros(len(wholes))
        for batch in self._batches(wholes):
            ids = self._padded([wholes[index].token_ids for index in batch], left=False)
            plain = torch.log_softmax(self._model(input_ids=ids, use_cache=False).logits.double(), dim=-1)
            with steer(self._blocks, steering.select(torch.tensor(batch))) as steerer:
                steerer.positions = _spans(conversations, batch, ids, steering.span)
                steered = torch.log_softmax(self._model(input_ids=ids, use_cache=False).logits.double(), dim=-1)
            gap = (plain.exp() * (plain - steered)).sum(dim=-1)
            for row, index in enumerate(batch):
                start = conversations[index].end
                result[index] = float(gap[row, start : start + max(len(answer_ids[index]), 1)].mean())
        return result

    def _greedy(self, prompts: Sequence[Sequence[int]], room: int, steering: RowSteering | None) -> list[list[int]]:
        """Return the new token ids of each row, without the stop token."""
        ids = self._padded(prompts, left=True)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=ids.device)
        mask = torch.arange(ids.shape[1], device=ids.device) >= ids.shape[1] - lengths[:, None]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        rows = torch.arange(len(prompts), device=ids.device)
        cache = DynamicCache(config=self._model.config)
        answers: list[list[int]] = [[] for _ in prompts]
        with steer(self._blocks, steering) if steering else nullcontext() as steerer:
            for step in range(room):
                if steerer is not None and steering is not None:
                    steerer.positions = _steered_now(ids, steering.span, first=step == 0)
                logits = self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits
                chosen = logits[:, -1].argmax(dim=-1)
                running = ~torch.isin(chosen, self._stops)
                for row, token in zip(rows[running].tolist(), chosen[running].tolist(), strict=True):
                    answers[row].append(token)
                if not running.any():
                    break
                # A stopped row leaves the batch at once, so long answers do not pay for short ones.
                keep = running.nonzero().flatten()
                if len(keep) < len(rows):
                    rows, chosen, mask, positions = rows[keep], chosen[keep], mask[keep], positions[keep]
                    cache.batch_select_indices(keep)
                    if steerer is not None:
                        steerer.rows = steerer.rows.select(keep)
                ids = chosen[:, None]
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
                positions = positions[:, -1:] + 1
        return answers

    def _batches(self, conversations: Sequence[Conversation]) -> Iterator[list[int]]:
        """Yield row numbers in batches of similar length, the longest first, so that memory fails early or never."""
        order = sorted(range(len(conversations)), key=lambda index: -len(conversations[index].token_ids))
        for start in range(0, len(order), self._batch_rows):
            yield order[start : start + self._batch_rows]

    def _padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> Tensor:
        width = max(len(row) for row in rows)
        filler = [0]
        padded = [
            filler * (width - len(row)) + list(row) if left else list(row) + filler * (width - len(row)) for row in rows
        ]
        return torch.tensor(padded, device=self._model.device)


def load_model(source: ModelSource, *, device: str = "auto", dtype: str = "float32") -> TransformersModel:
    """Load model and tokenizer; raises ``ModelLoadError`` with the loader's reason."""
    loaded = load_pretrained(source, device=device, dtype=dtype)
    return TransformersModel(loaded.model, loaded.tokenizer, model_id=source.id, revision=loaded.revision)


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    known = sorted({int(one) for one in ids if one is not None})
    if not known:
        raise ModelLoadError("neither generation config nor tokenizer names an end-of-sequence token")
    return torch.tensor(known, device=model.device)


def _steered_now(ids: Tensor, span: SteeringSpan, *, first: bool) -> Tensor | None:
    """Return the mask of steered positions of left-padded rows: the prompt at the ``first`` step, then a new token."""
    match span:
        case SteeringSpan.EVERY_TOKEN:
            return torch.ones_like(ids, dtype=torch.bool)  # what is padding, nothing attends to
        case SteeringSpan.LAST_PROMPT_TOKEN if not first:
            return None
        case SteeringSpan.LAST_PROMPT_TOKEN | SteeringSpan.ONWARD:
            positions = torch.zeros_like(ids, dtype=torch.bool)
            positions[:, -1] = True
            return positions
        case _:
            assert_never(span)


def _spans(conversations: Sequence[Conversation], batch: Sequence[int], ids: Tensor, span: SteeringSpan) -> Tensor:
    """Return the mask of steered positions of right-padded rows, counted from each conversation's own end."""
    ends = torch.tensor([conversations[index].end for index in batch], device=ids.device)[:, None]
    places = torch.arange(ids.shape[1], device=ids.device)[None, :]
    match span:
        case SteeringSpan.ONWARD:
            return places >= ends
        case SteeringSpan.LAST_PROMPT_TOKEN:
            return places == ends
        case SteeringSpan.EVERY_TOKEN:
            return torch.ones_like(ids, dtype=torch.bool)
        case _:
            assert_never(span)
