"""The reference world, loaded once."""

from __future__ import annotations

import pytest

from rass.reference.lexicon import Lexicon
from rass.reference.prompts import load_lexicons
from rass.reference.splits import Splits, build_splits
from rass.reference.world import World, load_world


@pytest.fixture(scope="session")
def world() -> World:
    return load_world()


@pytest.fixture(scope="session")
def lexicons(world: World) -> dict[str, Lexicon]:
    return load_lexicons(world)


@pytest.fixture(scope="session")
def splits(world: World, lexicons: dict[str, Lexicon]) -> Splits:
    return build_splits(world, lexicons["en"])
