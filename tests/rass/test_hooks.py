"""Recording and steering hooks change exactly what they were asked to change."""

from __future__ import annotations

import pytest
import torch

from detectors.manifest import SteeringForm, SteeringSpan
from rass.errors import ModelLoadError
from rass.hooks import Direction, RowSteering, decoder_blocks, record, steer
from rass.model import TransformersModel

IDS = torch.tensor([[0, 2, 30, 31, 4, 3], [0, 2, 40, 41, 4, 3]])


def _rows(form: SteeringForm, amounts: list[float], layer: int = 1, width: int = 32) -> RowSteering:
    unit = torch.zeros(len(amounts), width)
    unit[:, 5] = 1.0
    centre = torch.full((len(amounts),), 0.25)
    return RowSteering(form, SteeringSpan.ONWARD, {layer: Direction(unit, torch.tensor(amounts), centre)})


def _streams(model: TransformersModel, steering: RowSteering | None) -> list[torch.Tensor]:
    """Every block's output at every position, ``[rows·tokens, d]`` a block."""
    causal, blocks = model._model, model._blocks
    rows, positions = torch.arange(2).repeat_interleave(6), torch.arange(6).repeat(2)
    with torch.inference_mode():
        if steering is None:
            with record(blocks, rows, positions) as recorded:
                causal(input_ids=IDS)
            return recorded
        with steer(blocks, steering) as steerer, record(blocks, rows, positions) as recorded:
            steerer.positions = torch.arange(6).expand(2, 6) >= 5
            causal(input_ids=IDS)
        return recorded


@pytest.mark.parametrize("form", list(SteeringForm))
def test_strength_zero_is_bit_for_bit_the_plain_pass(model: TransformersModel, form: SteeringForm) -> None:
    for plain, steered in zip(_streams(model, None), _streams(model, _rows(form, [0.0, 0.0])), strict=True):
        assert torch.equal(plain, steered)


def test_add_moves_one_row_at_one_layer_from_its_span_on(model: TransformersModel) -> None:
    plain, steered = _streams(model, None), _streams(model, _rows(SteeringForm.ADD, [0.0, 1.5]))
    assert torch.equal(plain[0], steered[0])
    moved = (plain[1] - steered[1]).reshape(2, 6, 32)
    expected = torch.zeros(2, 6, 32)
    expected[1, 5, 5] = 1.5
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)
    assert not torch.equal(plain[2].reshape(2, 6, 32)[1, 5], steered[2].reshape(2, 6, 32)[1, 5])
    assert torch.equal(plain[3].reshape(2, 6, 32)[0], steered[3].reshape(2, 6, 32)[0])


def test_ablate_at_full_strength_lands_on_the_centre(model: TransformersModel) -> None:
    steered = _streams(model, _rows(SteeringForm.ABLATE, [1.0, 1.0]))[1].reshape(2, 6, 32)
    torch.testing.assert_close(steered[:, 5, 5], torch.full((2,), 0.25), atol=1e-5, rtol=0)


def _fail_while_steering(model: TransformersModel) -> None:
    with steer(model._blocks, _rows(SteeringForm.ADD, [9.0, 9.0])) as steerer:
        steerer.positions = torch.ones(2, 6, dtype=torch.bool)
        raise RuntimeError("inside")


def test_hooks_leave_with_their_context(model: TransformersModel) -> None:
    before = model._model(input_ids=IDS).logits
    with pytest.raises(RuntimeError, match="inside"):
        _fail_while_steering(model)
    assert torch.equal(before, model._model(input_ids=IDS).logits)
    assert all(not block._forward_hooks for block in model._blocks)


def test_model_without_blocks_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="decoder blocks"):
        decoder_blocks(torch.nn.Linear(2, 2))
