"""Ridge logistic regression by Newton's method, in float64.

The problems here are small (tens of thousands of rows, hundreds of features), convex and solved dozens of times with
nearby answers, so an exact solver that starts from the last answer beats a stochastic one and needs no tuning.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["fit_logistic", "log_loss"]

DoubleArray = npt.NDArray[np.float64]

_MAX_STEPS = 50
_TOLERANCE = 1e-10
_MAX_HALVINGS = 30


def fit_logistic(
    features: DoubleArray,
    labels: npt.NDArray[np.bool_],
    weights: DoubleArray,
    *,
    penalty: float,
    start: DoubleArray | None = None,
    offsets: DoubleArray | None = None,
) -> DoubleArray:
    """Return ``[features + 1]`` coefficients, the intercept last and not penalised.

    Minimises Σ w·log(1 + exp(-±s)) / Σ w + penalty/2·‖coefficients‖² with s = x·coefficients + intercept. ``features``
    is ``[rows, features]`` and should be standardised; ``start`` are coefficients to start from; ``offsets``
    (``[rows]``) are logits that are there already, which the fitted ones add to.
    """
    rows, width = features.shape
    if rows == 0 or labels.all() or not labels.any():
        raise ValueError("logistic regression needs rows of both classes")
    weights = weights / weights.sum()
    signs = np.where(labels, 1.0, -1.0)
    ridge = np.full(width + 1, penalty)
    ridge[-1] = 0.0
    current = np.zeros(width + 1) if start is None else start.copy()

    def scores_of(coefficients: DoubleArray) -> DoubleArray:
        scores = features @ coefficients[:-1] + coefficients[-1]
        return np.asarray(scores if offsets is None else scores + offsets)

    def objective_of(coefficients: DoubleArray, scores: DoubleArray) -> float:
        return float(weights @ np.logaddexp(0.0, -signs * scores) + 0.5 * ridge @ coefficients**2)

    scores = scores_of(current)
    objective = objective_of(current, scores)
    for _ in range(_MAX_STEPS):
        probabilities = 0.5 * (1.0 + np.tanh(0.5 * scores))
        slope = weights * (probabilities - labels)
        gradient = np.append(features.T @ slope, slope.sum()) + ridge * current
        curvature = weights * probabilities * (1.0 - probabilities)
        hessian = np.empty((width + 1, width + 1))
        hessian[:-1, :-1] = features.T @ (features * curvature[:, None])
        hessian[:-1, -1] = hessian[-1, :-1] = curvature @ features
        hessian[-1, -1] = curvature.sum()
        # A trace of damping keeps separable problems with a tiny penalty solvable.
        hessian[np.diag_indices(width + 1)] += ridge + 1e-12
        step = np.linalg.solve(hessian, gradient)
        decrement = float(gradient @ step)
        if decrement < _TOLERANCE:
            break
        size = 1.0
        for _ in range(_MAX_HALVINGS):
            proposal = current - size * step
            proposed_scores = scores_of(proposal)
            proposed = objective_of(proposal, proposed_scores)
            if proposed <= objective - 1e-4 * size * decrement:
                break
            size *= 0.5
        else:
            break
        current, scores, objective = proposal, proposed_scores, proposed
    return current


def log_loss(scores: DoubleArray, labels: npt.NDArray[np.bool_]) -> DoubleArray:
    """Return the logistic loss of each row's logit."""
    return np.asarray(np.logaddexp(0.0, np.where(labels, -scores, scores)))
