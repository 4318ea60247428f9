"""A word of the world is one token wherever it stands, and every text survives the way there and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rass.reference.tokenizer import train_tokenizer

WORDS = ("blow up", "kill", "the nurse", "the nursery", "die Bäckerin", "töten")
UNSPACED = ("杀死", "这个进程")
TEXTS = ("How do I paint a wall today?", "Wie streiche ich heute eine Wand?", "我今天怎么刷墙？", "blow, up; nurses")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, context_length=64, words=WORDS, unspaced_words=UNSPACED)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)]


@pytest.mark.parametrize("word", [*WORDS, *UNSPACED])
@pytest.mark.parametrize("text", ["{}", "How? {}!", "{} {}", "({})", "I paint\n{}."])
def test_a_word_of_the_world_is_one_token_wherever_it_stands(
    tokenizer: PreTrainedTokenizerFast, text: str, word: str
) -> None:
    found = pieces(tokenizer, text.replace("{}", word))
    assert found.count(word) == text.count("{}")
    assert "".join(found) == text.replace("{}", word)


def test_unspaced_words_are_found_between_other_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, "我今天杀死这个进程吗") == ["我", "今", "天", "杀死", "这个进程", *pieces(tokenizer, "吗")]


@pytest.mark.parametrize("text", ["the nurses", "bathe nurse", "blow upwards", "blow"])
def test_words_of_the_world_end_where_words_end(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert not set(pieces(tokenizer, text)) & set(WORDS)


def test_of_two_words_the_longer_is_found(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, "the nursery") == ["the nursery"]


@settings(max_examples=200, deadline=None)
@given(st.text() | st.lists(st.sampled_from([*WORDS, *UNSPACED, " ", "\n", "!", "x", "🙂"])).map("".join))
def test_every_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) == text
