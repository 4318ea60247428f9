"""The features that the refusal detector weighs: cue classes by place, their combinations, and signs of help.

They carry no language and no topic, so their weights transfer between languages and sources. (Wording, as n-grams of
the first sentences, was tried beside them: it learnt the sources' habits and lost on every source that was held out.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from detectors.refusal_cues import Cue, CueFinder
from detectors.refusal_text import PreparedAnswer

_PLACES = ("1", "2", "3")  # first sentence, second, any later one of the head
_NEAR = 90  # characters between an inability and the act of helping that it denies
_LENGTHS = (40, 90, 180, 350, 700, 1200)


def features(answer: PreparedAnswer, finder: CueFinder) -> dict[str, float]:
    """Return the answer's features by name; a feature that is absent is zero."""
    cues = finder.find(answer.sentences)
    values = {f"len>{limit}": 1.0 for limit in _LENGTHS if answer.characters > limit}
    values["sentences"] = min(len(answer.sentences), 8) / 8
    if answer.list_items:
        values["list"] = 1.0
        values["items"] = math.log1p(answer.list_items)
    if answer.has_code:
        values["code"] = 1.0
    if answer.has_quotation:
        values["quotation"] = 1.0
    values.update(cue_features(cues))
    return values


def cue_features(cues: Sequence[Cue]) -> dict[str, float]:
    """Return the features that only depend on which cue classes occur where."""
    values: dict[str, float] = {}
    places: dict[str, list[Cue]] = {}
    for cue in cues:
        values[f"{cue.name}@{_PLACES[min(cue.sentence, 2)]}"] = 1.0
        places.setdefault(cue.name, []).append(cue)
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
        for name in ("sorry", "judge", "harm", "refute", "comply", "redirect", "stress", "offer", "ai", "lack"):
            if name in places:
                values[f"no denial&{name}"] = 1.0
    return values
