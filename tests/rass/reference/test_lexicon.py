from __future__ import annotations

from dataclasses import replace

import pytest

from rass.reference import lexicon as module
from rass.reference.lexicon import Lexicon, load_lexicon, tidy
from rass.reference.world import World

HELD_OUT = 3


def test_at_least_four_languages(lexicons: dict[str, Lexicon]) -> None:
    assert {"de", "en", "es", "zh"} <= lexicons.keys()


def test_every_language_has_enough_of_everything(lexicons: dict[str, Lexicon]) -> None:
    for lexicon in lexicons.values():
        assert len(lexicon.frames["train"]) >= 40
        assert min(len(lexicon.frames["selection"]), len(lexicon.frames["report"])) >= 12
        assert min(len(lexicon.asides_before), len(lexicon.asides_after)) >= 40
        assert len(set(lexicon.refusals)) >= 30
        assert len(lexicon.seen_wrappings()) >= 8
        assert len(lexicon.wrappings) - len(lexicon.seen_wrappings()) == HELD_OUT


def test_all_languages_hold_the_same_ids(lexicons: dict[str, Lexicon]) -> None:
    first = lexicons["en"]
    for lexicon in lexicons.values():
        assert {name: set(items) for name, items in lexicon.objects.items()} == {
            name: set(items) for name, items in first.objects.items()
        }
        assert lexicon.wrappings.keys() == first.wrappings.keys()


def test_a_slot_in_an_aside_is_an_error(world: World, lexicons: dict[str, Lexicon]) -> None:
    broken = replace(lexicons["en"], asides_after=("Then {action}.",))
    with pytest.raises(ValueError, match=r"asides with slots: \['Then \{action\}\.'\]"):
        module._check(broken, world)


def test_an_unknown_language_is_an_error_that_names_the_known_ones(world: World) -> None:
    with pytest.raises(ValueError, match="available: de, en, es, zh"):
        load_lexicon("tlh", world)


def test_a_surface_used_twice_is_an_error(world: World, lexicons: dict[str, Lexicon]) -> None:
    english = lexicons["en"]
    broken = replace(english, verbs={**english.verbs, "kill": english.verbs["shoot"]})
    with pytest.raises(ValueError, match=r"two ids.*shoot"):
        module._check(broken, world)


def test_a_missing_verb_is_an_error(world: World, lexicons: dict[str, Lexicon]) -> None:
    english = lexicons["en"]
    verbs = {name: surface for name, surface in english.verbs.items() if name != "kill"}
    with pytest.raises(ValueError, match="kill"):
        module._check(replace(english, verbs=verbs), world)


def test_tidy_closes_the_gap_of_an_empty_tail() -> None:
    assert tidy("How can I kill the process ?") == "How can I kill the process?"
    assert tidy("a  b") == "a b"
