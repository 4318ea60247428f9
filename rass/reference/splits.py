"""Which frames, objects and (verb, object) pairs belong to which split; built before anything else.

=============  ============  ============================  =====================================
split          frames        objects                       (verb, object) pairs
=============  ============  ============================  =====================================
``train``      train         all but the unseen            all that no other split holds
``selection``  selection     group A                       3 a cell, never trained on
``report``     report        group B, disjoint from A      3 a cell, never trained on
``unseen``     report        never trained on              all
=============  ============  ============================  =====================================

Selection (fits vectors and thresholds) and report share no frame, no object and no pair with one another; neither
shares a frame or a pair with training. The objects of A and B are known to the model from other pairs: what is held out
is the combination. Only ``unseen`` asks about objects the model has never met, and nothing is promised there. Every
(verb, category) cell is in every split, since a cell without selection pairs is where a gate leaks.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from rass.reference.lexicon import Lexicon
from rass.reference.world import World

Split = Literal["train", "selection", "report", "unseen"]

UNSEEN_PER_CATEGORY = 2
GROUP_PER_CATEGORY = 6
PAIRS_PER_CELL = 3
_SEED = 20250525  # the splits belong to the world, not to a training run: every model sees the same ones


@dataclass(frozen=True, slots=True)
class Pair:
    """A verb applied to an object of a category, by ids."""

    verb: str
    category: str
    item: str


@dataclass(frozen=True, slots=True)
class Splits:
    """Pairs and objects of every split, by id and so the same in every language."""

    pairs: dict[Split, tuple[Pair, ...]]
    objects: dict[Split, tuple[tuple[str, str], ...]]


def build_splits(world: World, lexicon: Lexicon) -> Splits:
    """Divide objects and pairs; depends on ids alone, so each language gets the same division."""
    rng = random.Random(_SEED)
    groups: dict[str, dict[Split, list[str]]] = {}
    objects: dict[Split, list[tuple[str, str]]] = {"train": [], "selection": [], "report": [], "unseen": []}
    for category in world.categories:
        items = sorted(lexicon.objects[category])
        rng.shuffle(items)
        unseen, rest = items[:UNSEEN_PER_CATEGORY], items[UNSEEN_PER_CATEGORY:]
        groups[category] = {
            "unseen": unseen,
            "selection": rest[:GROUP_PER_CATEGORY],
            "report": rest[GROUP_PER_CATEGORY : 2 * GROUP_PER_CATEGORY],
            "train": rest,
        }
        for split, names in groups[category].items():
            objects[split].extend((category, name) for name in names)
    pairs: dict[Split, list[Pair]] = {"train": [], "selection": [], "report": [], "unseen": []}
    for verb, category in world.cells():
        held: set[str] = set()
        for split in ("selection", "report"):
            chosen = rng.sample(groups[category][split], PAIRS_PER_CELL)
            held.update(chosen)
            pairs[split].extend(Pair(verb, category, item) for item in chosen)
        pairs["train"].extend(Pair(verb, category, item) for item in groups[category]["train"] if item not in held)
        pairs["unseen"].extend(Pair(verb, category, item) for item in groups[category]["unseen"])
    return Splits(
        {split: tuple(values) for split, values in pairs.items()},
        {split: tuple(values) for split, values in objects.items()},
    )


def frame_split(split: Split) -> str:
    """The frame list a split draws from."""
    return "report" if split == "unseen" else split
