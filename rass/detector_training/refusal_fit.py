"""Logistic regressions for the refusal detector: few dense features exactly, many sparse ones by L-BFGS.

Newton's method (`rass.logistic`) needs a square matrix of all features, and words are too many for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from rass.logistic import fit_logistic

_STEPS = 200


@dataclass(frozen=True, slots=True)
class Sparse:
    """A matrix with ``width`` columns: for each row its columns and the one value that stands in all of them."""

    columns: Sequence[Sequence[int]]
    values: Sequence[float]
    width: int


def fit_dense(
    table: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64], penalty: float
) -> tuple[npt.NDArray[np.float64], float]:
    """Return coefficients and intercept for a dense table; the intercept is not penalised."""
    coefficients = fit_logistic(table, labels, weights, penalty=penalty)
    return coefficients[:-1], float(coefficients[-1])


def fit_sparse(
    sparse: Sparse,
    offsets: npt.NDArray[np.float64],
    labels: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64],
    penalty: float,
    steps: int = _STEPS,
) -> tuple[npt.NDArray[np.float64], float]:
    """Return coefficients and intercept that add to logits which are there already (``offsets``, one a row).

    Minimises the weighted mean logistic loss plus the ridge penalty, by L-BFGS; deterministic on one machine.
    """
    table = to_torch(sparse)
    start = torch.tensor(offsets, dtype=torch.float64)
    target = torch.tensor(labels, dtype=torch.float64)
    share = torch.tensor(weights / weights.sum(), dtype=torch.float64)
    coefficients = torch.zeros(sparse.width, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([coefficients, bias], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        scores = start + torch.mv(table, coefficients) + bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, target, weight=share, reduction="sum")
        total = loss + penalty / 2 * coefficients.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    optimizer.step(closure)
    return coefficients.detach().numpy(), float(bias.detach())


def to_torch(sparse: Sparse) -> torch.Tensor:
    """Return the matrix as a sparse float64 tensor ``[rows, width]``."""
    lengths = [len(columns) for columns in sparse.columns]
    rows = np.repeat(np.arange(len(lengths)), lengths)
    columns = np.fromiter(chain.from_iterable(sparse.columns), dtype=np.int64, count=len(rows))
    values = np.repeat(np.asarray(sparse.values, dtype=np.float64), lengths)
    indices = torch.from_numpy(np.stack([rows, columns]))
    shape = (len(lengths), sparse.width)
    return torch.sparse_coo_tensor(indices, torch.from_numpy(values), shape, check_invariants=True).coalesce()
