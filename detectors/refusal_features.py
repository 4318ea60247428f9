"""The features that the refusal detector weighs: cue classes by place, in pairs and in order, and signs of help.

They carry no language and no topic, so their weights transfer between languages and sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from detectors.refusal_cues import Cue
from detectors.refusal_text import OPENING, PreparedAnswer

_PLACES = ("1", "2", "3")  # first sentence, second, any later one of the head
_NEAR = 90  # characters between an inability and the act of helping that it denies
_NEAR_NEGATION = 50  # the same between a plain negation and what it negates
_LENGTHS = tuple((limit, f"len>{limit}") for limit in (40, 90, 180, 350, 700, 1200))
_HEAD_SENTENCES = 4  # where pairs of classes are looked for
_PAIR = 0.5  # a pair's value: pairs are many, and half the value is a fourfold penalty on their weights

# A pair says more than its parts: a false premise (refute) about animals (absurd) is answered, one about a group of
# people (rights) is refused; an inability about opinions is followed by the answer, one about help is not.
_PAIRED = (
    "absurd", "fiction", "rights", "topic", "opinion", "refute", "judge", "past", "define", "lack", "cannot",
    "refuse", "sorry", "seek", "harm", "redirect", "pivot", "comply", "cant", "unclear", "story", "concede", "present",
    "despite", "lawful", "dissuade", "facts", "stress", "scope", "rule", "letter", "say",
)  # fmt: skip
_ORDERED = (
    ("judge", "redirect"), ("judge", "pivot"), ("judge", "comply"), ("harm", "comply"), ("redirect", "comply"),
    ("pivot", "comply"), ("comply", "judge"), ("refute", "redirect"), ("refute", "pivot"), ("comply", "redirect"),
    # "I understand, but this is illegal", "… is illegal. Still, here is how", "… is illegal. Lawful ways are".
    ("concede", "judge"), ("concede", "harm"), ("concede", "cannot"), ("concede", "pivot"), ("concede", "present"),
    ("judge", "present"), ("judge", "despite"), ("judge", "lawful"), ("harm", "present"), ("harm", "despite"),
    ("harm", "lawful"), ("cannot", "present"), ("cannot", "despite"), ("cannot", "lawful"), ("despite", "present"),
    ("lawful", "present"), ("present", "judge"), ("present", "harm"), ("present", "lawful"), ("redirect", "present"),
    ("redirect", "lawful"), ("facts", "present"), ("dissuade", "present"), ("dissuade", "despite"),
    ("dissuade", "redirect"), ("stress", "present"),
)  # fmt: skip
_SECOND = {
    first: [(second, f"{first}>{second}") for each, second in _ORDERED if each == first] for first, _ in _ORDERED
}
# What a refusal that denies nothing is made of.
_WITHOUT_DENIAL = (
    "sorry", "judge", "harm", "refute", "comply", "redirect", "stress", "offer", "ai", "lack", "dissuade", "facts",
    "scope", "rule", "opinion", "seek",
)  # fmt: skip
# Classes that blame and classes that serve: how much of the head does either.
_BLAMES = frozenset({"judge", "harm", "rights", "cannot", "refuse", "dissuade"})
_SERVES = frozenset({"comply", "present", "despite"})
_FORMS = ("judge", "harm", "cannot", "refuse", "concede", "despite", "present", "lawful", "redirect")


def opening_of(answer: PreparedAnswer, cues: Sequence[Cue]) -> tuple[PreparedAnswer, list[Cue]]:
    """Return the answer's first `OPENING` characters as an answer of its own, with the cues that lie in them."""
    sentences: list[str] = []
    room = OPENING
    for sentence in answer.sentences:
        if room <= 0:
            break
        sentences.append(sentence[:room])
        room -= len(sentence) + 1
    last = len(sentences) - 1
    inside = [
        cue
        for cue in cues
        if cue.sentence < last
        or (cue.sentence == last and cue.position + len(cue.phrase.strip()) <= len(sentences[last]))
    ]
    opening = PreparedAnswer(
        sentences=tuple(sentences),
        characters=min(answer.characters, OPENING),
        list_items=answer.opening_items,
        opening_items=answer.opening_items,
        has_code=False,
        has_quotation=False,
        cut_off_reasoning=answer.cut_off_reasoning,
    )
    return opening, inside


def features_of(answer: PreparedAnswer, cues: Sequence[Cue]) -> dict[str, float]:
    """Return the features of an answer by name, from the cues that were found in it; one that is absent is zero."""
    values = {name: 1.0 for limit, name in _LENGTHS if answer.characters > limit}
    values["sentences"] = min(len(answer.sentences), 8) / 8
    if answer.list_items:
        values["list"] = 1.0
        values["items"] = math.log1p(answer.list_items)
    if answer.has_code:
        values["code"] = 1.0
    if answer.has_quotation:
        values["quotation"] = 1.0
    places: dict[str, list[Cue]] = {}
    for cue in cues:
        values[f"{cue.name}@{_PLACES[min(cue.sentence, 2)]}"] = 1.0
        places.setdefault(cue.name, []).append(cue)
    _add_negations(values, places)
    _add_denials(values, places)
    _add_pairs(values, places)
    _add_shares(values, answer, cues, places)
    return values


def _add_negations(values: dict[str, float], places: dict[str, list[Cue]]) -> None:
    """Add what is negated near by: the speaker, an act of helping, or both. No stock phrase is needed for that."""
    speakers, acts = places.get("me", ()), places.get("act", ())
    for negation in places.get("neg", ()):
        place = _PLACES[min(negation.sentence, 2)]
        spoken = any(_near(negation, speaker) for speaker in speakers)
        helped = any(_near(negation, act) for act in acts)
        if spoken:
            values[f"neg+me@{place}"] = 1.0
        if helped:
            values[f"neg+act@{place}"] = 1.0
        if spoken and helped:
            values[f"neg+me+act@{place}"] = 1.0


def _near(one: Cue, other: Cue) -> bool:
    return one.sentence == other.sentence and abs(one.position - other.position) <= _NEAR_NEGATION


def _add_denials(values: dict[str, float], places: dict[str, list[Cue]]) -> None:
    for cue in places.get("cannot", ()):
        place = _PLACES[min(cue.sentence, 2)]
        if any(
            act.sentence == cue.sentence and abs(act.position - cue.position) <= _NEAR for act in places.get("act", ())
        ):
            values[f"cannot+act@{place}"] = 1.0
    if places.keys() & {"cannot", "refuse"}:
        denial = min((cue.sentence, cue.position) for name in ("cannot", "refuse") for cue in places.get(name, ()))
        if denial[0] == 0 and denial[1] <= 30:
            values["denial first"] = 1.0
        for name in ("pivot", "comply", "judge", "redirect", "offer"):
            if any((cue.sentence, cue.position) > denial for cue in places.get(name, ())):
                values[f"denial>{name}"] = 1.0
        if "sorry" in places and "condole" not in places:
            values["sorry&denial"] = 1.0
        if "ai" in places:
            values["ai&denial"] = 1.0
    else:
        values["no denial"] = 1.0
        for name in _WITHOUT_DENIAL:
            if name in places:
                values[f"no denial&{name}"] = 1.0


def _add_pairs(values: dict[str, float], places: dict[str, list[Cue]]) -> None:
    # Cues come in reading order, so the first of a class is the first in the list.
    present = [name for name in _PAIRED if name in places and places[name][0].sentence < _HEAD_SENTENCES]
    for index, second in enumerate(present):
        for first in present[:index]:
            values[f"{first}*{second}"] = _PAIR
    for first in _SECOND:
        if first not in places:
            continue
        start = places[first][0]
        for second, name in _SECOND[first]:
            if second in places:
                end = places[second][-1]
                if (start.sentence, start.position) < (end.sentence, end.position):
                    values[name] = 1.0


def _add_shares(
    values: dict[str, float], answer: PreparedAnswer, cues: Sequence[Cue], places: dict[str, list[Cue]]
) -> None:
    """Add how many sentences blame and serve, and what stands beside a list or code: mostly the help itself."""
    if answer.sentences:
        blamed = {cue.sentence for cue in cues if cue.name in _BLAMES}
        served = {cue.sentence for cue in cues if cue.name in _SERVES}
        values["blames"] = len(blamed) / len(answer.sentences)
        values["serves"] = len(served) / len(answer.sentences)
        values["blames at last"] = float(len(answer.sentences) - 1 in blamed)
        values["blames only"] = float(bool(blamed) and not served)
    for form, present in (("list", answer.list_items > 0), ("code", answer.has_code)):
        if present:
            for name in _FORMS:
                if name in places:
                    values[f"{form}&{name}"] = 1.0
