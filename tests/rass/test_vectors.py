"""Directions recover what was planted, with confounders in the way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from detectors.manifest import SteeringForm, SteeringSpan
from rass.errors import StageError
from rass.hooks import Direction, RowSteering
from rass.model import Readings, TransformersModel
from rass.observe import Observations
from rass.prompts import PromptSet
from rass.vectors import POOLED, build, matched_difference, orthogonal_to


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_planted_refusal_direction_is_recovered(
    model: TransformersModel, make_prompts: Callable[..., PromptSet]
) -> None:
    """Steering plants a direction at the template end of refused prompts; reading must find it in the last block
    too."""
    prompts = make_prompts("selection", frames=1).prompts
    refused = {row: prompt.harmful or row % 2 == 0 for row, prompt in enumerate(prompts)}
    planted = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)
    amounts = torch.tensor([-60.0 if refused[row] else 0.0 for row in range(len(prompts))])
    direction = Direction(planted.expand(len(prompts), 32), amounts, torch.zeros(len(prompts)))
    steering = RowSteering(SteeringForm.ADD, SteeringSpan.LAST_PROMPT_TOKEN, {1: direction})
    readings = model.read(model.render([prompt.messages for prompt in prompts]), steering=steering)
    vectors = build(Observations(prompts, readings, refused))
    assert vectors.languages == ("de", "en")
    for language in ("de", "en", POOLED):
        assert _cosine(vectors.by_language[language].refusal[1], planted.double().numpy()) > 0.99
    assert abs(_cosine(vectors.by_language[POOLED].refusal[0], planted.double().numpy())) < 0.9


def test_matching_removes_a_confounder() -> None:
    """Refusals are rarer in one category whose prompts also lie elsewhere: only matching sees the true direction."""
    generator = np.random.default_rng(0)
    category = generator.integers(0, 2, 4000)
    refused = generator.random(4000) < np.where(category == 0, 0.2, 0.8)
    values = generator.normal(0, 1, (4000, 1, 6)).astype(np.float32)
    values[:, 0, 0] += 2.0 * refused
    values[:, 0, 1] += 5.0 * category
    first, second = np.flatnonzero(refused), np.flatnonzero(~refused)
    truth = np.eye(6)[0]
    assert _cosine(matched_difference(values, first, second, category.tolist())[0], truth) > 0.99
    assert _cosine(matched_difference(values, first, second, list(range(4000)))[0], truth) < 0.7


def test_orthogonality_is_in_the_whitened_metric() -> None:
    generator = np.random.default_rng(0)
    residuals = generator.normal(0, 1, (5000, 8)) * np.array([9, 1, 1, 1, 1, 1, 1, 1.0])
    direction, other = generator.normal(size=8), generator.normal(size=8)
    cleared = orthogonal_to(direction, other, residuals)
    covariance = residuals.T @ residuals / 4999
    covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / 8 * np.eye(8)
    assert cleared @ np.linalg.solve(covariance, other) == pytest.approx(0.0, abs=1e-9)
    assert orthogonal_to(cleared, other, residuals) == pytest.approx(cleared)


def test_model_without_contrast_is_named(make_prompts: Callable[..., PromptSet]) -> None:
    prompts = make_prompts("selection", frames=1).prompts
    values = np.zeros((len(prompts), 2, 4), dtype=np.float32)
    readings = Readings(values, np.arange(len(prompts)), values)
    with pytest.raises(StageError, match="'benign refused': 0"):
        build(Observations(prompts, readings, {row: prompt.harmful for row, prompt in enumerate(prompts)}))
