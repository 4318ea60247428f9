"""Positions at which a conversation is read."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from detectors.verdict import Message
from rass.conversation import TemplateTokenizer, render
from rass.errors import InputError

END, ASSISTANT = 4, 3


def test_positions_of_a_dialogue(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = (Message("system", "S"), Message("user", "ab"), Message("assistant", "c"), Message("user", "def"))
    (asked,) = render(TemplateTokenizer(tokenizer), [turns])
    assert [asked.token_ids[start] for start in asked.answer_starts] == [ASSISTANT, ASSISTANT]
    assert asked.answer_starts == (1 + 3 + 4, 1 + 3 + 4 + 3 + 5)
    assert asked.answer_starts[-1] == asked.end
    assert asked.token_ids[asked.end] == ASSISTANT
    assert not asked.answered


def test_answer_end_closes_the_assistants_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    (asked,) = render(TemplateTokenizer(tokenizer), [(Message("user", "ab"),)])
    (told,) = render(TemplateTokenizer(tokenizer), [(Message("user", "ab"), Message("assistant", "cd"))])
    assert told.answered
    assert told.token_ids[told.end] == END
    assert told.answer_starts == asked.answer_starts
    assert told.token_ids[: len(asked.token_ids)] == asked.token_ids


def test_a_question_about_an_answer_is_no_request(tokenizer: PreTrainedTokenizerFast) -> None:
    told = (Message("user", "ab"), Message("assistant", "cd"))
    (plain,) = render(TemplateTokenizer(tokenizer), [told])
    (asked,) = render(TemplateTokenizer(tokenizer), [told], ["ef?"])
    (turn,) = render(TemplateTokenizer(tokenizer), [(*told, Message("user", "ef?"))])
    assert asked.token_ids == turn.token_ids
    assert asked.token_ids[asked.end] == ASSISTANT
    assert asked.answer_starts == plain.answer_starts == turn.answer_starts[:1]
    assert asked.answered
    assert asked.asked


def test_a_question_about_a_request_alone_follows_it(tokenizer: PreTrainedTokenizerFast) -> None:
    (asked,) = render(TemplateTokenizer(tokenizer), [(Message("user", "ab"),)], ["ef?"])
    (turns,) = render(TemplateTokenizer(tokenizer), [(Message("user", "ab"), Message("user", "ef?"))])
    assert asked.token_ids == turns.token_ids
    assert asked.end == turns.end
    assert len(asked.answer_starts) == 1
    assert asked.asked
    assert not asked.answered


def test_a_turn_without_an_answer_is_read_at_its_own_end(tokenizer: PreTrainedTokenizerFast) -> None:
    (asked,) = render(TemplateTokenizer(tokenizer), [(Message("user", "ab"), Message("user", "cd"))])
    assert [asked.token_ids[start] for start in asked.answer_starts] == [END, ASSISTANT]


def test_template_that_rewrites_earlier_turns_still_has_positions(tokenizer: PreTrainedTokenizerFast) -> None:
    rewriting = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    # The last turn is marked; rendered up to an earlier turn, that turn is the last and so marked too.
    rewriting.chat_template = (
        "{% for message in messages %}<|user|>{{ message.content }}{% if loop.last %}!{% endif %}<|end|>{% endfor %}"
    )
    (found,) = render(TemplateTokenizer(rewriting), [(Message("user", "ab"), Message("user", "cd"))])
    assert found.answer_starts == (2, len(found.token_ids) - 1)


def test_what_cannot_be_rendered_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="no user turn"):
        render(TemplateTokenizer(tokenizer), [(Message("system", "x"),)])
    with pytest.raises(InputError, match="no chat template"):
        TemplateTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer))
