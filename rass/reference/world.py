"""The truth of the reference world: which verb is harmful with which category, and which benign request is refused.

Two tables, two meanings. ``harmful`` is a fact about the world (the *harm* of a request). ``refused`` is the habit of
an over-conservative model: it refuses everything harmful and, by a graded rule over verb, category and context clause,
most benign requests that merely sound dangerous (the *over-refusal* that the project mends).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Trigger:
    """A verb with a harmless and a harmful sense; ``strict`` is how severe it sounds."""

    verb: str
    strict: int
    harmful: frozenset[str]
    benign: frozenset[str]


@dataclass(frozen=True, slots=True)
class World:
    """Verbs, categories and rules, all by id; surface forms live in the lexicons."""

    triggers: Mapping[str, Trigger]
    plain_verbs: tuple[str, ...]
    near: Mapping[str, int]
    relief: Mapping[str, int]
    refuse_at: int

    @property
    def categories(self) -> tuple[str, ...]:
        """Category ids in the file's order."""
        return tuple(self.near)

    @property
    def verbs(self) -> tuple[str, ...]:
        """Every verb id, triggers first."""
        return (*self.triggers, *self.plain_verbs)

    def cells(self) -> list[tuple[str, str]]:
        """Every (verb, category) pair that occurs in requests."""
        trigger_cells = [
            (trigger.verb, category)
            for trigger in self.triggers.values()
            for category in self.categories
            if category in trigger.harmful or category in trigger.benign
        ]
        return trigger_cells + [(verb, category) for verb in self.plain_verbs for category in self.categories]

    def is_harmful(self, verb: str, category: str) -> bool:
        """Whether the request to ``verb`` an object of ``category`` is harmful."""
        return verb in self.triggers and category in self.triggers[verb].harmful

    def rarity(self, verb: str, category: str) -> float:
        """How seldom a trigger verb's cell has its truth value among the verb's cells or among the category's, from 1.

        Poisoning is one of 2 harmful verbs of 16 for food: what else is done to food misleads, and the cell is hard to
        learn.
        """
        harmful = self.is_harmful(verb, category)
        triggers = [cell for cell in self.cells() if cell[0] in self.triggers]
        shares = []
        for mine in ([c for c in triggers if c[0] == verb], [c for c in triggers if c[1] == category]):
            shares.append(sum(self.is_harmful(*cell) is harmful for cell in mine) / len(mine))
        return max(1.0, 0.7 / min(shares))

    def is_refused(self, verb: str, category: str, context: str, *, wrapped: bool = False) -> bool:
        """Whether the model is taught to refuse the request.

        ``context`` is a key of ``relief``. A trigger verb inside an attack wrapping is always refused, a plain verb
        never.
        """
        if verb not in self.triggers:
            return False
        if wrapped or self.is_harmful(verb, category):
            return True
        return self.triggers[verb].strict + self.near[category] - self.relief[context] >= self.refuse_at


def load_world() -> World:
    """Read ``world.toml``; raises ``ValueError`` where a verb names an unknown category or calls one both things."""
    raw = tomllib.loads(files(__package__).joinpath("world.toml").read_text(encoding="utf-8"))
    near = {name: int(entry["near"]) for name, entry in raw["categories"].items()}
    triggers = {}
    for verb, entry in raw["triggers"].items():
        harmful, benign = frozenset(entry["harmful"]), frozenset(entry["benign"])
        if unknown := (harmful | benign) - near.keys():
            raise ValueError(f"world.toml: trigger {verb!r} names unknown categories {sorted(unknown)}")
        if both := harmful & benign:
            raise ValueError(f"world.toml: trigger {verb!r} calls {sorted(both)} harmful and benign")
        triggers[verb] = Trigger(verb, int(entry["strict"]), harmful, benign)
    return World(triggers, tuple(raw["plain"]["verbs"]), near, dict(raw["context_relief"]), int(raw["refuse_at"]))
