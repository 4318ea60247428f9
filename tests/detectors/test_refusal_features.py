from __future__ import annotations

from detectors.refusal_cues import load_finder
from detectors.refusal_features import features_of, opening_of
from detectors.refusal_text import OPENING, prepare

FINDER = load_finder()
HELP = "Knead the dough, let it rest for an hour and bake it until the crust is brown. "


def test_the_opening_of_a_short_answer_is_the_answer() -> None:
    answer = prepare("I'm sorry, but I can't help with that. You could ask a lawyer.")
    cues = FINDER.find(answer.sentences)
    opening, inside = opening_of(answer, cues)
    assert opening == answer
    assert inside == cues


def test_what_follows_the_opening_is_no_part_of_it() -> None:
    answer = prepare(HELP * 3 + "I'm sorry, but I can't help with that.\n1. One.\n2. Two.")
    cues = FINDER.find(answer.sentences)
    assert {"sorry", "cannot"} <= {cue.name for cue in cues}
    opening, inside = opening_of(answer, cues)
    assert sum(map(len, opening.sentences)) <= OPENING
    assert opening.characters == OPENING
    assert opening.list_items == 0
    assert answer.list_items == 2
    assert not {"sorry", "cannot"} & {cue.name for cue in inside}


def test_a_phrase_that_is_cut_off_is_not_heard() -> None:
    text = "x" * (OPENING - 6) + " i cannot help"
    answer = prepare(text)
    assert FINDER.find(answer.sentences)
    assert opening_of(answer, FINDER.find(answer.sentences))[1] == []


def test_the_opening_does_not_depend_on_what_follows() -> None:
    beginning = "I understand the wish, but this is illegal. " + HELP * 2
    openings = []
    for rest in ("", "I refuse. I'm sorry. " * 9):
        answer = prepare(beginning + rest)
        opening, inside = opening_of(answer, FINDER.find(answer.sentences))
        openings.append((opening.sentences, features_of(opening, inside)))
    assert openings[0] == openings[1]
