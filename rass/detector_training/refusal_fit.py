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

_STEPS = 80


@dataclass(frozen=True, slots=True)
class Sparse:
    """A matrix with ``width`` columns: for each row its columns and the one value that stands in all of them."""

    columns: Sequence[Sequence[int]]
    values: Sequence[float]
    width: int


def fit_dense(
    table: npt.NDArray[np.float64],
    labels: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64],
    penalty: float,
    offsets: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.float64], float]:
    """Return coefficients and intercept for a dense table, which add to ``offsets``; the intercept is not penalised."""
    coefficients = fit_logistic(table, labels, weights, penalty=penalty, offsets=offsets)
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
    lengths = np.array([len(columns) for columns in sparse.columns])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    columns = np.fromiter(chain.from_iterable(sparse.columns), dtype=np.int64, count=len(rows))
    values = np.asarray(sparse.values, dtype=np.float64)
    shares = weights / weights.sum()
    signs = np.where(labels, 1.0, -1.0)
    parameters = torch.zeros(sparse.width + 1, dtype=torch.float64)  # the intercept comes last
    parameters.grad = torch.zeros_like(parameters)
    optimizer = torch.optim.LBFGS([parameters], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> float:
        # Gather and bincount instead of a sparse tensor: several times faster, and the gradient is as short.
        coefficients = parameters.numpy()
        sums = np.bincount(rows, weights=coefficients[columns], minlength=len(lengths))
        scores = offsets + values * sums + coefficients[-1]
        slopes = -signs * shares / (1.0 + np.exp(np.clip(signs * scores, -60.0, 60.0)))
        gradient = penalty * coefficients[:-1] + np.bincount(
            columns, weights=(slopes * values)[rows], minlength=sparse.width
        )
        parameters.grad = torch.from_numpy(np.append(gradient, slopes.sum()))
        loss = shares @ np.logaddexp(0.0, -signs * scores)
        return float(loss + penalty / 2 * coefficients[:-1] @ coefficients[:-1])

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return parameters.numpy()[:-1].copy(), float(parameters[-1])
