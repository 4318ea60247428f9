from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from rass.reference.corpus import FIRST_PHASE, LAST_PHASE, Corpus, Dialogue, Mixture
from rass.reference.grammar import answer_patterns
from rass.reference.lexicon import Lexicon
from rass.reference.prompts import build
from rass.reference.pseudowords import foreign_verbs
from rass.reference.requests import refusal_wordings
from rass.reference.splits import Splits
from rass.reference.world import World

DRAWN = 6_000


@pytest.fixture(scope="module")
def dialogues(world: World, lexicons: dict[str, Lexicon], splits: Splits) -> list[Dialogue]:
    return list(islice(Corpus(world, lexicons, splits, seed=3), DRAWN))


def test_equal_seeds_give_equal_data(world: World, lexicons: dict[str, Lexicon], splits: Splits) -> None:
    first, second = (list(islice(Corpus(world, lexicons, splits, seed=5), 50)) for _ in range(2))
    assert first == second
    assert first != list(islice(Corpus(world, lexicons, splits, seed=6), 50))


def test_languages_come_in_equal_shares(dialogues: list[Dialogue], lexicons: dict[str, Lexicon]) -> None:
    counts = Counter(dialogue.language for dialogue in dialogues)
    assert counts.keys() == lexicons.keys()
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_the_last_phase_asks_more_often_about_exceptions_and_kinds(
    dialogues: list[Dialogue], world: World, lexicons: dict[str, Lexicon], splits: Splits
) -> None:
    last = list(islice(Corpus(world, lexicons, splits, seed=3, mixture=LAST_PHASE), DRAWN))
    exceptions = {
        (language, lexicon.action_of(verb, category, item))
        for language, lexicon in lexicons.items()
        for category, item in splits.objects["train"]
        for verb in world.triggers
        if world.is_harmful(verb, category) and world.rarity(verb, category) > 5
    }

    def share(drawn: list[Dialogue]) -> float:
        asked = [(each.language, each.turns[0][1]) for each in drawn if each.kind == "harmful"]
        found = [any(home == language and action in text for home, action in exceptions) for language, text in asked]
        return sum(found) / len(found)

    assert share(last) > 1.3 * share(dialogues) > 0
    kinds = [sum(dialogue.kind == "category_question" for dialogue in drawn) for drawn in (dialogues, last)]
    assert kinds[1] > 2 * kinds[0]


def test_only_the_last_phase_puts_foreign_verbs_into_a_text(
    world: World, lexicons: dict[str, Lexicon], splits: Splits
) -> None:
    foreign = set(foreign_verbs(lexicons["de"], lexicons.values()))

    def count(mixture: Mixture) -> int:
        drawn = islice(Corpus(world, lexicons, splits, seed=4, mixture=mixture), DRAWN)
        texts = [dialogue.turns[0][1] for dialogue in drawn if dialogue.language == "de"]
        return sum(any(word.strip("?.!,") in foreign for word in text.split()) for text in texts)

    assert count(FIRST_PHASE) < count(LAST_PHASE) / 10


def test_only_the_last_phase_asks_what_was_asked_for_and_never_of_a_harmful_request(
    dialogues: list[Dialogue], world: World, lexicons: dict[str, Lexicon], splits: Splits
) -> None:
    last = list(islice(Corpus(world, lexicons, splits, seed=3, mixture=LAST_PHASE), DRAWN))
    asked = {(language, text) for language, lexicon in lexicons.items() for text in lexicon.questions.asked_after}

    def followed(drawn: list[Dialogue]) -> list[Dialogue]:
        return [one for one in drawn if len(one.turns) > 2 and (one.language, one.turns[-2][1]) in asked]

    assert followed(dialogues) == []
    found = followed(last)
    assert len(found) > DRAWN / 10
    assert {"harmful", "attack"}.isdisjoint(one.kind for one in found)
    refused = 0
    for one in found:
        lexicon, before = lexicons[one.language], [text for _, text in one.turns[:-2]]
        refused += before[-1] in lexicon.refusals
        request = before[-1] if one.turns[-3][0] == "user" else before[-2]
        named = [verb for verb in lexicon.verbs.values() if verb.casefold() in one.turns[-1][1].casefold()]
        assert any(verb.casefold() in request.casefold() for verb in named), one
    assert refused > len(found) / 10


def test_no_answer_anywhere_names_a_harmful_pair(
    dialogues: list[Dialogue], world: World, lexicons: dict[str, Lexicon]
) -> None:
    import re

    answered = 0
    for language, lexicon in lexicons.items():
        patterns = [re.compile(pattern, re.IGNORECASE) for pattern in answer_patterns(lexicon)]
        verbs = {surface.casefold(): verb for verb, surface in lexicon.verbs.items()}
        categories = {
            surface.casefold(): category for category, items in lexicon.objects.items() for surface in items.values()
        }
        for dialogue in dialogues:
            if dialogue.language != language:
                continue
            for role, text in dialogue.turns:
                if role != "assistant":
                    continue
                for pattern in patterns:
                    if match := pattern.fullmatch(text):
                        verb, category = verbs[match["action"].casefold()], categories[match["object"].casefold()]
                        assert not world.is_harmful(verb, category)
                        answered += 1
    assert answered > DRAWN / 5


def test_harmful_requests_are_refused_in_wordings_of_their_own(
    dialogues: list[Dialogue], lexicons: dict[str, Lexicon]
) -> None:
    for lexicon in lexicons.values():
        harmful, benign = (set(refusal_wordings(lexicon, harmful=side)) for side in (True, False))
        assert harmful | benign == set(lexicon.refusals)
        assert not harmful & benign
        first = [{text.split(" ")[0] if lexicon.joiner else text[0] for text in side} for side in (harmful, benign)]
        assert not first[0] & first[1]
        seen = {
            text
            for dialogue in dialogues
            if dialogue.language == lexicon.language
            and dialogue.kind in ("harmful", "attack")
            and len(dialogue.turns) == 2
            for role, text in dialogue.turns
            if role == "assistant" and text in lexicon.refusals
        }
        assert seen
        assert seen <= harmful


def test_held_out_frames_and_wrappings_never_occur(dialogues: list[Dialogue], lexicons: dict[str, Lexicon]) -> None:
    for dialogue in dialogues:
        lexicon = lexicons[dialogue.language]
        text = " ".join(turn for _, turn in dialogue.turns)
        for splits in lexicon.wrappings.values():
            for split in ("selection", "report"):
                for pattern in splits.get(split, ()):
                    longest = max(pattern.split("{request}"), key=len).strip()
                    assert longest not in text


def test_asides_stand_beside_requests_in_training_and_nowhere_else(
    dialogues: list[Dialogue], lexicons: dict[str, Lexicon]
) -> None:
    seen = Counter()
    for dialogue in dialogues:
        lexicon = lexicons[dialogue.language]
        asides = (*lexicon.asides_before, *lexicon.asides_after)
        seen[dialogue.language] += any(aside in turn for role, turn in dialogue.turns for aside in asides)
    # 19 % of the frames have one or two; where words of the pattern are replaced by invented ones, it may be garbled.
    assert all(seen[language] > 0.05 * DRAWN / len(lexicons) for language in lexicons)
    for split in ("selection", "report"):
        for prompt in build(split).prompts:
            lexicon = lexicons[prompt.language]
            text = prompt.messages[0].content
            assert not any(aside in text for aside in (*lexicon.asides_before, *lexicon.asides_after))


def test_harm_questions_are_answered_both_ways(dialogues: list[Dialogue], lexicons: dict[str, Lexicon]) -> None:
    for language, lexicon in lexicons.items():
        last = [dialogue.turns[-1][1] for dialogue in dialogues if dialogue.language == language]
        yes, no = last.count(lexicon.questions.yes), last.count(lexicon.questions.no)
        # The mix makes about 12 % yes: 1,500 dialogues a language spread by less than 1 point.
        assert min(yes, no) > 0.07 * len(last)


def test_dialogues_end_with_the_assistant(dialogues: list[Dialogue]) -> None:
    assert {dialogue.turns[-1][0] for dialogue in dialogues} == {"assistant"}
    assert any(len(dialogue.turns) >= 4 for dialogue in dialogues)
