"""Invented words: slots and length stay, words change, and a seed decides which."""

from __future__ import annotations

import random

import pytest

from rass.reference.lexicon import available_languages, load_lexicon
from rass.reference.pseudowords import PseudoWords, foreign_verbs
from rass.reference.world import load_world

WORLD = load_world()


@pytest.mark.parametrize("language", available_languages())
def test_slots_stay_and_words_change(language):
    lexicon = load_lexicon(language, WORLD)
    words = PseudoWords(lexicon)
    rng = random.Random(0)
    changed = 0
    for frame in lexicon.frames["train"]:
        disturbed = words.disturb(frame, rng)
        assert disturbed.count("{action}") == frame.count("{action}")
        assert disturbed.count("{tail}") == frame.count("{tail}")
        assert lexicon.sentence(disturbed, "ACTION", "TAIL").count("ACTION") == frame.count("{action}")
        changed += disturbed != frame
    assert changed > 0.8 * len(lexicon.frames["train"])


@pytest.mark.parametrize("language", available_languages())
def test_a_seed_decides(language):
    words = PseudoWords(load_lexicon(language, WORLD))
    pattern = load_lexicon(language, WORLD).frames["train"][0]
    assert words.disturb(pattern, random.Random(7)) == words.disturb(pattern, random.Random(7))


def test_many_invented_words_are_none_of_the_languages_own():
    lexicon = load_lexicon("en", WORLD)
    words = PseudoWords(lexicon)
    known = {word.strip("?.!,").lower() for frame in lexicon.frames["train"] for word in frame.split()}
    rng = random.Random(1)
    new = {
        word.strip("?.!,").lower()
        for frame in lexicon.frames["train"]
        for word in words.disturb(frame, rng).split()
        if not word.startswith("{")
    } - known
    assert len(new) > len(lexicon.frames["train"]) / 2


def test_foreign_verbs_are_no_words_of_the_language():
    lexicons = {language: load_lexicon(language, WORLD) for language in available_languages()}
    for language, lexicon in lexicons.items():
        foreign = foreign_verbs(lexicon, lexicons.values())
        assert not set(foreign) & set(lexicon.words())
        spaced = [other for other in lexicons.values() if other.joiner and other.language != language]
        for other in spaced:
            assert len(set(foreign) & set(other.verbs.values())) > 0.8 * len(other.verbs)


def test_some_invented_words_are_the_foreign_ones():
    words = PseudoWords(load_lexicon("de", WORLD), ("check", "find"))
    rng = random.Random(0)
    found = [word for _ in range(2_000) for word in words.disturb("Wie geht das Wort", rng).split()]
    foreign = [word for word in found if word in {"check", "find"}]
    invented = [word for word in found if word not in {"Wie", "geht", "das", "Wort"}]
    assert len(foreign) / len(invented) == pytest.approx(0.2, abs=0.03)
