"""No topic is judged by a model that has learnt from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rass.detector_training.boundary_data import CONTRAST, Example
from rass.detector_training.boundary_folds import FOLDS, deal_folds, score_out_of_fold
from rass.detector_training.contrast import load_pairs


def examples() -> list[Example]:
    twins = [
        Example(f"{topic} {language} {harmful}", harmful, language, CONTRAST, topic, f"{topic} {language}", number)
        for number, (topic, language) in enumerate(
            (topic, language) for topic in ("law", "art", "sport", "faith") for language in ("en", "de")
        )
        for harmful in (True, False)
    ]
    return [*twins, *(Example(f"other {n}", n % 2 == 0, "en", "A", "", f"unit {n // 2}") for n in range(40))]


def test_topics_and_units_are_never_split() -> None:
    every = examples()
    folds = deal_folds(every)
    groups: dict[str, set[int]] = {}
    for example, fold in zip(every, folds.tolist(), strict=True):
        groups.setdefault(example.kind or example.unit, set()).add(fold)
    assert {len(found) for found in groups.values()} == {1}
    assert set(folds.tolist()) == set(range(FOLDS))


def test_the_projects_pairs_fill_the_folds_evenly() -> None:
    twins = [Example(pair.harmful, True, pair.language, CONTRAST, pair.domain, pair.unit) for pair in load_pairs()]
    counts = np.bincount(deal_folds(twins), minlength=FOLDS)
    assert counts.max() < 1.1 * counts.min()


def test_each_is_scored_by_a_model_that_has_not_seen_its_topic() -> None:
    every = examples()
    by_text = {example.text: example for example in every}

    def learn_and_score(learnt: Sequence[Example], texts: Sequence[str]) -> npt.NDArray[np.float64]:
        seen = {example.kind or example.unit for example in learnt}
        assert not seen & {by_text[text].kind or by_text[text].unit for text in texts}
        return np.array([float(len(text)) for text in texts])

    assert score_out_of_fold(every, learn_and_score).tolist() == [len(example.text) for example in every]
