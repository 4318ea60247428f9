"""Cross-validation holds out objects and frames at once; weights count cells evenly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rass.folds import Blocks, balanced_weights
from rass.prompts import PromptSet


def test_no_object_and_no_frame_is_in_both_parts(make_prompts: Callable[..., PromptSet]) -> None:
    prompts = make_prompts("selection").prompts
    tested = np.zeros(len(prompts), dtype=int)
    for block in Blocks.of(prompts, 3):
        tested += block.test
        train = [prompt for prompt, chosen in zip(prompts, block.train, strict=True) if chosen]
        test = [prompt for prompt, chosen in zip(prompts, block.test, strict=True) if chosen]
        for key in ("object", "frame"):
            seen = {(one.category if key == "object" else one.language, getattr(one, key)) for one in train}
            assert not seen & {(one.category if key == "object" else one.language, getattr(one, key)) for one in test}
        assert {prompt.category for prompt in train} == {prompt.category for prompt in prompts}
    assert (tested == 1).all()


def test_without_frames_objects_are_held_out(make_prompts: Callable[..., PromptSet]) -> None:
    prompts = [replace(prompt, frame="") for prompt in make_prompts("selection", frames=2)]
    blocks = list(Blocks.of(prompts, 3))
    assert len(blocks) == 3
    assert all((block.train ^ block.test).all() for block in blocks)


def test_weights_are_even_over_classes_groups_and_cells() -> None:
    labels = np.array([True] * 7 + [False] * 3)
    groups = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    cells = np.array([0, 0, 0, 1, 0, 0, 0, 0, 1, 1])
    weights = balanced_weights(labels, groups, cells, np.array([1.0, 3.0, 1.0]), np.ones(10, dtype=bool))
    assert np.isclose(weights[labels].sum(), 0.5)
    assert np.isclose(weights[groups == 1].sum(), 3 * weights[groups == 0].sum())
    assert np.isclose(weights[:3].sum(), weights[3])
    assert np.isclose(weights[7], weights[8:].sum())
