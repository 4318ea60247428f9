"""From messages to the token ids that the model sees, and the positions at which it is read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2 import TemplateError

from detectors.verdict import Message
from rass.conversation import Conversation, TemplateTokenizer, render
from rass.errors import InputError
from rass.serving.errors import InvalidRequest, PromptTooLong
from rass.serving.loading import ServedModel

__all__ = ["Prompter"]


class Prompter:
    """Renders conversations of one model; raises ``InvalidRequest`` for those that it cannot take."""

    def __init__(self, served: ServedModel, *, context_length: int) -> None:
        self._tokenizer = TemplateTokenizer(served.tokenizer)
        self._context_length = context_length
        added = served.tokenizer.added_tokens_decoder.values()
        control = {str(token) for token in served.tokenizer.all_special_tokens}
        control |= {token.content for token in added if token.special}
        longest_first = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(re.escape(token) for token in longest_first)) if control else None

    def conversation(self, messages: Sequence[Message], *, answered: bool, question: str | None = None) -> Conversation:
        """Render a conversation with its positions: ``answered`` ones end with the assistant's turn.

        ``question``, whether the request was harmful, is put to the model after the last turn.

        Raises ``InvalidRequest`` for control tokens in a text (they would forge turns that nobody wrote), for a
        conversation without a user turn and for one that the template refuses; ``PromptTooLong`` when no token is left
        for an answer.
        """
        if question is not None and self._control is not None and self._control.search(question):
            raise InvalidRequest("the question holds a control token of this model; take it out", param="question")
        for index, message in enumerate(messages):
            if self._control is not None and (match := self._control.search(message.content)):
                raise InvalidRequest(
                    f"the text holds {match[0]!r}, a control token of this model; take it out",
                    param=f"messages[{index}].content",
                )
        if messages and messages[-1].role == "assistant" and not answered:
            raise InvalidRequest(
                "the last message must not be the assistant's: continuing an answer is not supported", param="messages"
            )
        try:
            conversation = render(self._tokenizer, [messages], None if question is None else [question])[0]
        except InputError as error:
            raise InvalidRequest(
                "messages hold no user message; there is nothing to answer", param="messages"
            ) from error
        except TemplateError as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        length = len(conversation.token_ids)
        if length + 1 > self._context_length:
            raise PromptTooLong(
                f"the messages have {length} tokens and the context is {self._context_length}, answer included; "
                "shorten them",
                param="messages",
            )
        return conversation
