"""Sampling draws from the distribution it names."""

from __future__ import annotations

import pytest
import torch

from rass.serving.plans import RowPlan
from rass.serving.residual import BatchRow
from rass.serving.sampling import RowSampler, row_sampling

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])


def draws(count: int, *, temperature: float, top_p: float) -> torch.Tensor:
    """Return how often each of the four tokens is drawn by one row, as a share."""
    sampling = row_sampling(temperature, top_p, 3, "cpu")
    plans = {"row": RowPlan(prompt_length=1, sampling=sampling)}
    sampler = RowSampler(rows=lambda: [BatchRow("row", 0, 1, True)], plans=plans)
    tokens = [int(sampler(torch.zeros(1, 1), LOGITS[None].clone()).argmax()) for _ in range(count)]
    return torch.bincount(torch.tensor(tokens), minlength=4) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_softmax_says(temperature):
    expected = (LOGITS / temperature).softmax(dim=-1)
    assert (draws(4000, temperature=temperature, top_p=1.0) - expected).abs().max() < 0.03


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p():
    probabilities = LOGITS.softmax(dim=-1)
    shares = draws(2000, temperature=1.0, top_p=float(probabilities[0]) + 0.01)
    assert shares[2:].sum() == 0
    assert shares[1] > 0
    assert draws(200, temperature=1.0, top_p=float(probabilities[0]) - 0.01)[0] == 1


def test_rows_without_a_token_in_this_step_are_skipped():
    plans = {"b": RowPlan(prompt_length=1, sampling=row_sampling(1.0, 1.0, 5, "cpu")), "a": RowPlan(prompt_length=1)}
    batch = [BatchRow("chunk", 0, 4, False), BatchRow("a", 3, 1, True), BatchRow("b", 3, 1, True)]
    scores = torch.stack([LOGITS, LOGITS, torch.zeros(4)])
    changed = RowSampler(rows=lambda: batch, plans=plans)(torch.zeros(3, 1), scores)
    assert torch.equal(changed[0], LOGITS)
    assert not torch.equal(changed[1], LOGITS)
    assert torch.equal(changed[2], torch.zeros(4))


def test_a_tiny_temperature_is_greedy():
    assert row_sampling(0.0, 1.0, 1, "cpu") is None
    assert row_sampling(1e-9, 1.0, 1, "cpu") is None
