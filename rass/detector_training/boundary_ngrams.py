"""The baseline: logistic regression on hashed character n-grams."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["NgramModel"]

DoubleArray = npt.NDArray[np.float64]

_SIZES = (2, 3, 4, 5)
_BUCKETS = 2**18
_STEPS = 60


class NgramModel:
    """Ridge logistic regression on the presence of character 2- to 5-grams, each text scaled to length 1."""

    def __init__(self, penalty: float = 1e-4) -> None:
        self._penalty = penalty
        self._weights = torch.zeros(_BUCKETS, 1)
        self._bias = torch.zeros(1)

    def fit(self, texts: Sequence[str], labels: npt.NDArray[np.bool_], weights: DoubleArray) -> None:
        """Fit by L-BFGS from zero; deterministic. ``weights`` are per text, relative."""
        table, bias = torch.zeros(_BUCKETS, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
        bags = _bags(texts)
        target = torch.tensor(labels, dtype=torch.float32)
        share = torch.tensor(weights / weights.sum(), dtype=torch.float32)
        optimiser = torch.optim.LBFGS([table, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimiser.zero_grad()
            scores = _score(table, bias, bags)
            each = torch.nn.functional.binary_cross_entropy_with_logits(scores, target, reduction="none")
            total = (each * share).sum() + 0.5 * self._penalty * table.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        self._weights, self._bias = table.detach(), bias.detach()

    def logits(self, texts: Sequence[str]) -> DoubleArray:
        """Return the logit of harm ``[texts]``."""
        return _score(self._weights, self._bias, _bags(texts)).numpy().astype(np.float64)


def _score(
    table: torch.Tensor, bias: torch.Tensor, bags: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    ids, offsets, scale = bags
    summed = torch.nn.functional.embedding_bag(ids, table, offsets, mode="sum").squeeze(1)
    return summed * scale + bias


def _bags(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return bucket numbers, where each text's begin, and 1 / the length of each text's vector."""
    ids: list[int] = []
    offsets: list[int] = []
    for text in texts:
        offsets.append(len(ids))
        padded = f" {' '.join(text.casefold().split())} "
        grams = {padded[at : at + size] for size in _SIZES for at in range(len(padded) - size + 1)}
        ids += sorted(zlib.crc32(gram.encode("utf-8", "replace")) % _BUCKETS for gram in grams)
    lengths = np.diff([*offsets, len(ids)])
    scale = 1.0 / np.sqrt(np.maximum(lengths, 1))
    return torch.tensor(ids), torch.tensor(offsets), torch.tensor(scale, dtype=torch.float32)
