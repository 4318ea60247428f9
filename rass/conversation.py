"""Conversations as token ids, with the positions at which the model is read.

The pipeline that fits a probe and the server that applies it must read the same token, so both render with this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from detectors.coordinates import shared_tokens
from detectors.verdict import Message
from rass.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ChatTokenizer", "Conversation", "render"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A rendered conversation.

    ``answer_starts`` holds, for each user turn, the index of the last token before the answer to it: of the template
    rendered up to that turn, generation prompt included. Harm is read there and not at the instruction's own last token
    (arXiv 2507.11878): on the reference model a linear probe tells harmful from refused benign requests at AUC .97
    there and .90 at the instruction's end. ``end`` is the index of the last token: the template end (``answered``
    false, generation prompt included), the answer end (``answered`` true, the conversation closes with an assistant
    turn), or, where ``asked`` is true, the template end after a question about the request. The question is not among
    the user turns whose answer starts are listed; in a conversation that is ``asked`` and not ``answered`` there is no
    generation prompt after the last of them.
    """

    token_ids: tuple[int, ...]
    answer_starts: tuple[int, ...]
    answered: bool
    asked: bool = False

    @property
    def end(self) -> int:
        """The index of the last token."""
        return len(self.token_ids) - 1


class ChatTokenizer(Protocol):
    """What rendering needs of a tokenizer."""

    def text(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        """Return the chat template filled with the messages."""
        ...

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts that already hold every special token."""
        ...


class TemplateTokenizer:
    """A Hugging Face tokenizer with a chat template, as a ``ChatTokenizer``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise InputError(f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; give a chat model")
        self._tokenizer = tokenizer

    def text(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        """Return the chat template filled with the messages."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt)
        if not isinstance(rendered, str):
            raise InputError(f"the chat template of {self._tokenizer.name_or_path!r} did not render to one text")
        return rendered

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts that already hold every special token."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
        return [list(ids) for ids in encoded["input_ids"]]


def render(
    tokenizer: ChatTokenizer, dialogues: Sequence[Sequence[Message]], questions: Sequence[str] | None = None
) -> list[Conversation]:
    """Render dialogues; one that closes with an assistant turn gets no generation prompt.

    With ``questions``, one for each dialogue, each is followed by its question, as a user turn of its own.

    An answer starts where the template rendered up to its user turn stops agreeing with the whole: a template that
    rewrites earlier turns, or a turn that got no answer, still yields a position, namely the last token they share.
    """
    wholes: list[str] = []
    prefixes: list[str] = []
    owners: list[int] = []
    for index, messages in enumerate(dialogues):
        if not any(message.role == "user" for message in messages):
            raise InputError(f"conversation {index} has no user turn; there is no request to read")
        answered = messages[-1].role == "assistant"
        if questions is None:
            wholes.append(tokenizer.text(messages, generation_prompt=not answered))
        else:
            asked = (*messages, Message("user", questions[index]))
            wholes.append(tokenizer.text(asked, generation_prompt=True))
        for position, message in enumerate(messages):
            if message.role == "user":
                prefixes.append(tokenizer.text(messages[: position + 1], generation_prompt=True))
                owners.append(index)
    whole_ids = tokenizer.ids(wholes)
    ends: list[list[int]] = [[] for _ in dialogues]
    for owner, prefix in zip(owners, tokenizer.ids(prefixes), strict=True):
        ends[owner].append(shared_tokens(prefix, whole_ids[owner]) - 1)
    return [
        Conversation(tuple(ids), tuple(turn_ends), messages[-1].role == "assistant", questions is not None)
        for ids, turn_ends, messages in zip(whole_ids, ends, dialogues, strict=True)
    ]
