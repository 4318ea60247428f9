"""Cross-validation that holds out what is new at serving time: objects and frames at once.

A row is tested by a fit that has seen neither its object (in any language or wrapping) nor its frame. Thresholds
chosen on such scores are honest about new requests; scores of rows whose object or frame was fitted are far too good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rass.prompts import LabelledPrompt

__all__ = ["Block", "Blocks", "balanced_weights"]

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Block:
    """One fit: rows that may be learnt from and rows that it is tested on, both ``[rows]`` bool."""

    train: BoolArray
    test: BoolArray


@dataclass(frozen=True, slots=True)
class Blocks:
    """A grid of object folds x frame folds; each row is tested exactly once.

    ``objects`` and ``frames`` are ``[rows]`` fold numbers. Objects are dealt out category by category, so that every
    category stays in every training part. Prompts without known frames are held out by object (or base request) alone.
    """

    objects: IntArray
    frames: IntArray | None
    folds: int

    @classmethod
    def of(cls, prompts: Sequence[LabelledPrompt], folds: int, *, seed: int = 0) -> Blocks:
        """Deal the prompts' objects and frames into folds, by hash of seed and ids."""
        objects = _deal([(prompt.category, prompt.object or prompt.base_id) for prompt in prompts], folds, seed)
        frames = None
        if all(prompt.frame for prompt in prompts):
            frames = _deal([(prompt.language, prompt.frame) for prompt in prompts], folds, seed)
        return cls(objects, frames, folds)

    def __iter__(self) -> Iterator[Block]:
        for object_fold in range(self.folds):
            for frame_fold in range(self.folds) if self.frames is not None else (None,):
                yield self._block(object_fold, frame_fold)

    def diagonal(self) -> Iterator[Block]:
        """Yield one block for each object fold: enough to compare settings at a third of the cost."""
        for fold in range(self.folds):
            yield self._block(fold, fold if self.frames is not None else None)

    def _block(self, object_fold: int, frame_fold: int | None) -> Block:
        test = self.objects == object_fold
        train = ~test
        if self.frames is not None:
            test, train = test & (self.frames == frame_fold), train & (self.frames != frame_fold)
        return Block(train, test)


def balanced_weights(
    labels: BoolArray, groups: IntArray, cells: IntArray, shares: DoubleArray, chosen: BoolArray
) -> DoubleArray:
    """Return ``[rows]`` weights that sum to 1 over ``chosen``: half a class, then by group, then evenly by cell.

    ``groups`` and ``cells`` number each row's group and (verb, category) cell; ``shares[g]`` is the relative weight of
    group g within its class. Rare cells so count as much as frequent ones: it is in rare cells that a gate leaks.
    """
    weights = np.zeros(len(labels))
    for label in (False, True):
        members = np.flatnonzero(chosen & (labels == label))
        if not len(members):
            continue
        _, inverse, sizes = np.unique(
            np.stack([groups[members], cells[members]]), axis=1, return_inverse=True, return_counts=True
        )
        inverse = inverse.reshape(-1)
        cell_group = np.zeros(len(sizes), dtype=np.int64)
        cell_group[inverse] = groups[members]
        cells_in_group = np.bincount(cell_group, minlength=len(shares))
        present = np.flatnonzero(cells_in_group)
        share = shares[cell_group] / shares[present].sum() / cells_in_group[cell_group]
        weights[members] = 0.5 * (share / sizes)[inverse]
    weights /= weights.sum()
    return weights


def _deal(keys: Sequence[tuple[str, str]], folds: int, seed: int) -> IntArray:
    """Give each distinct (group, id) a fold, going round within its group; groups start at different folds."""
    fold_of: dict[tuple[str, str], int] = {}
    dealt: dict[str, int] = {}
    for key in sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest()):
        first = dealt.setdefault(key[0], len(dealt))
        fold_of[key] = first % folds
        dealt[key[0]] += 1
    return np.array([fold_of[key] for key in keys], dtype=np.int64)
