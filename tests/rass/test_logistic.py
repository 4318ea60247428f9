"""The solver reaches the minimum that it promises."""

from __future__ import annotations

import numpy as np
import pytest

from rass.logistic import fit_logistic, log_loss


def _problem(rows: int = 400, width: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(rows, width))
    labels = generator.random(rows) < 1 / (1 + np.exp(-(features @ np.arange(width) - 1)))
    return features, labels, generator.random(rows)


@pytest.mark.parametrize("penalty", [1e-4, 1e-1])
def test_gradient_vanishes_at_the_solution(penalty: float) -> None:
    features, labels, weights = _problem()
    solution = fit_logistic(features, labels, weights, penalty=penalty)
    probabilities = 1 / (1 + np.exp(-(features @ solution[:-1] + solution[-1])))
    slope = weights / weights.sum() * (probabilities - labels)
    np.testing.assert_allclose(features.T @ slope + penalty * solution[:-1], 0, atol=1e-5)
    assert slope.sum() == pytest.approx(0, abs=1e-5)


def test_separable_rows_stay_finite() -> None:
    features = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    solution = fit_logistic(features, features[:, 0] > 0, np.ones(4), penalty=1e-9)
    assert np.isfinite(solution).all()
    assert solution[0] > 1


def test_start_changes_the_way_not_the_end() -> None:
    features, labels, weights = _problem()
    cold = fit_logistic(features, labels, weights, penalty=1e-2)
    warm = fit_logistic(features, labels, weights, penalty=1e-2, start=np.full(6, 3.0))
    np.testing.assert_allclose(cold, warm, atol=1e-3)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit_logistic(np.ones((3, 1)), np.ones(3, dtype=bool), np.ones(3), penalty=1.0)


def test_log_loss_of_even_odds() -> None:
    assert log_loss(np.zeros(2), np.array([True, False])) == pytest.approx([np.log(2)] * 2)
