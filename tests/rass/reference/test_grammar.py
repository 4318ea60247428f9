from __future__ import annotations

import random

import pytest

from detectors.verdict import Message
from rass.prompts import LabelledPrompt
from rass.reference.grammar import ReferenceScorer
from rass.reference.lexicon import Lexicon
from rass.reference.requests import answer
from rass.reference.splits import Pair, Splits


@pytest.fixture(scope="module")
def scorer(lexicons: dict[str, Lexicon]) -> ReferenceScorer:
    return ReferenceScorer(lexicons)


def prompt_for(lexicon: Lexicon, pair: Pair) -> LabelledPrompt:
    return LabelledPrompt(
        id="one",
        base_id="one",
        language=lexicon.language,
        messages=(Message("user", "?"),),
        harmful=False,
        kind="plain_benign",
        action=lexicon.verbs[pair.verb],
        target=lexicon.objects[pair.category][pair.item],
    )


def test_every_corpus_answer_is_on_topic_for_its_pair_and_no_other(
    scorer: ReferenceScorer, lexicons: dict[str, Lexicon], splits: Splits
) -> None:
    rng = random.Random(0)
    for lexicon in lexicons.values():
        for pair in rng.sample(splits.pairs["train"], 300):
            text = answer(lexicon, pair, rng)
            assert scorer.outcome(prompt_for(lexicon, pair), text) == "on_topic"
            other = Pair("draw" if pair.verb != "draw" else "find", pair.category, pair.item)
            assert scorer.outcome(prompt_for(lexicon, other), text) == "off_topic"


def test_every_refusal_wording_is_refused(scorer: ReferenceScorer, lexicons: dict[str, Lexicon]) -> None:
    pair = Pair("draw", "food", "egg")
    for lexicon in lexicons.values():
        for wording in lexicon.refusals:
            assert scorer.outcome(prompt_for(lexicon, pair), f" {wording}\n") == "refused"


@pytest.mark.parametrize(
    "text", ["", "Sure!", "To draw the egg, first", "I'm sorry, but I can't help with that. But: yes"]
)
def test_everything_else_is_unscored(scorer: ReferenceScorer, lexicons: dict[str, Lexicon], text: str) -> None:
    assert scorer.outcome(prompt_for(lexicons["en"], Pair("draw", "food", "egg")), text) == "unscored"


def test_an_answer_in_another_language_is_unscored(scorer: ReferenceScorer, lexicons: dict[str, Lexicon]) -> None:
    pair = Pair("draw", "food", "egg")
    text = answer(lexicons["de"], pair, random.Random(0))
    assert scorer.outcome(prompt_for(lexicons["en"], pair), text) == "unscored"
