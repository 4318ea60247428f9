"""Contrast pairs: minimal twins of a harmful and a benign request, written for this project.

They hold requests only, in thirteen languages, below `contrast/`: one pair a line in the text files, templates with
slots in `factored.toml`. Twins share their words and their form, so that neither gives the harm away.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

__all__ = ["Pair", "load_pairs", "without_near_copies", "word_overlap"]

_SEPARATOR = " || "
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two requests that differ in harm; ``domain`` is the topic, ``unit`` what it was made from (a line or a slot)."""

    language: str
    domain: str
    unit: str
    harmful: str
    benign: str


def load_pairs(folder: Traversable | None = None) -> list[Pair]:
    """Return all pairs, in the order of files and lines; raises ``ValueError`` naming the line that is wrong."""
    folder = folder or resources.files("rass.detector_training").joinpath("contrast")
    pairs: list[Pair] = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".txt"):
            pairs += _written(file.name, file.read_text(encoding="utf-8"))
        elif file.name.endswith(".toml"):
            pairs += _factored(file.read_text(encoding="utf-8"))
    return pairs


def word_overlap(one: str, other: str) -> float:
    """Return the share of words that two texts have in common (Jaccard), without case or punctuation."""
    return _jaccard(_words(one), _words(other))


def without_near_copies(pairs: Sequence[Pair], texts: Iterable[str], limit: float) -> tuple[list[Pair], list[Pair]]:
    """Split pairs into those far from all ``texts`` and those of which a side overlaps with one by ``limit`` or more.

    What a detector is scored on must not have been learnt from a copy.
    """
    sets = [_words(text) for text in texts]
    kept: list[Pair] = []
    dropped: list[Pair] = []
    for pair in pairs:
        sides = (_words(pair.harmful), _words(pair.benign))
        near = any(_jaccard(side, other) >= limit for side in sides for other in sets)
        (dropped if near else kept).append(pair)
    return kept, dropped


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    union = len(one | other)
    return len(one & other) / union if union else 1.0


def _written(name: str, text: str) -> Iterator[Pair]:
    language, domain = name.removesuffix(".txt").split("_")[0], ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            domain = line.strip("[] ")
            continue
        sides = [side.strip() for side in line.split(_SEPARATOR)]
        if len(sides) != 2 or not all(sides) or sides[0] == sides[1] or not domain:
            raise ValueError(f"{name}, line {number}: not a pair 'harmful || benign' below a [domain]")
        yield Pair(language, domain, f"{name}:{number}", sides[0], sides[1])


def _factored(text: str) -> Iterator[Pair]:
    for number, group in enumerate(tomllib.loads(text)["group"]):
        harmful, benign = group["harmful"], group["benign"]
        if len(harmful) != len(benign):
            raise ValueError(f"factored group {number} ({group['domain']}): as many harmful as benign fillers, please")
        for template in group["templates"]:
            for slot, (bad, good) in enumerate(zip(harmful, benign, strict=True)):
                yield Pair(
                    group["lang"],
                    group["domain"],
                    f"factored:{number}:{slot}",
                    template.replace("{x}", bad),
                    template.replace("{x}", good),
                )
