"""The proxy's refusal detector knows every wording of the reference model, and takes none of its answers for one."""

from __future__ import annotations

import random

import pytest

from detectors.refusal import TextRefusalDetector
from rass.reference.lexicon import available_languages, load_lexicon
from rass.reference.requests import answer
from rass.reference.splits import build_splits
from rass.reference.world import load_world

WORLD = load_world()
DETECTOR = TextRefusalDetector()


@pytest.mark.parametrize("language", available_languages())
def test_every_refusal_is_found(language):
    missed = [text for text in load_lexicon(language, WORLD).refusals if not DETECTOR.judge(text).refused]
    assert missed == []


@pytest.mark.parametrize("language", available_languages())
def test_no_answer_is_taken_for_a_refusal(language):
    lexicon, rng = load_lexicon(language, WORLD), random.Random(0)
    pairs = rng.sample(build_splits(WORLD, lexicon).pairs["report"], 600)
    answers = [answer(lexicon, pair, rng) for pair in pairs]
    assert [text for text in answers if DETECTOR.judge(text).refused] == []
