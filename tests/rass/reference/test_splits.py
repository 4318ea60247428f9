"""The splits never share what they must not share: without this, no figure of the reference model means anything."""

from __future__ import annotations

from itertools import combinations

import pytest

from rass.reference.lexicon import FRAME_SPLITS, Lexicon
from rass.reference.prompts import build
from rass.reference.splits import PAIRS_PER_CELL, Splits, build_splits
from rass.reference.world import World


def test_frames_are_disjoint(lexicons: dict[str, Lexicon]) -> None:
    for lexicon in lexicons.values():
        for one, other in combinations(FRAME_SPLITS, 2):
            assert not set(lexicon.frames[one]) & set(lexicon.frames[other])


def test_pairs_are_disjoint(splits: Splits) -> None:
    for one, other in combinations(splits.pairs, 2):
        assert not set(splits.pairs[one]) & set(splits.pairs[other])  # type: ignore[index]


def test_selection_and_report_share_no_object(splits: Splits) -> None:
    assert not set(splits.objects["selection"]) & set(splits.objects["report"])


def test_unseen_objects_are_in_no_other_split(splits: Splits) -> None:
    unseen = set(splits.objects["unseen"])
    for split in ("train", "selection", "report"):
        assert not unseen & set(splits.objects[split])  # type: ignore[index]
        assert not unseen & {(pair.category, pair.item) for pair in splits.pairs[split]}  # type: ignore[index]


def test_every_cell_is_in_every_split(world: World, splits: Splits) -> None:
    for split in ("selection", "report"):
        counts = {cell: 0 for cell in world.cells()}
        for pair in splits.pairs[split]:  # type: ignore[index]
            counts[pair.verb, pair.category] += 1
        assert set(counts.values()) == {PAIRS_PER_CELL}
    assert {(pair.verb, pair.category) for pair in splits.pairs["train"]} == set(world.cells())


def test_all_languages_are_divided_alike(world: World, lexicons: dict[str, Lexicon], splits: Splits) -> None:
    for lexicon in lexicons.values():
        assert build_splits(world, lexicon) == splits


@pytest.mark.parametrize(("one", "other"), [("selection", "report"), ("selection", "unseen")])
def test_built_prompts_share_neither_frame_nor_object(one: str, other: str) -> None:
    first, second = build(one), build(other)  # type: ignore[arg-type]
    assert not {(p.language, p.frame) for p in first} & {(p.language, p.frame) for p in second}
    assert not {(p.category, p.object) for p in first} & {(p.category, p.object) for p in second}
