"""Reading and steering the residual stream of decoder blocks, as context managers.

Layer ``l`` means the residual stream after block ``l``, counted from 0. Both hooks change nothing that they were not
asked to change: a row with strength 0 passes bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detectors.manifest import SteeringForm, SteeringSpan
from rass.errors import ModelLoadError

__all__ = ["Direction", "RowSteering", "Steerer", "decoder_blocks", "record", "steer"]


@dataclass(frozen=True, slots=True)
class Direction:
    """How one layer is steered, row by row.

    ``unit`` is ``[rows, d]`` of unit length, ``amount`` ``[rows]`` is strength x scale (add) or strength (ablate), and
    ``centre`` ``[rows]`` the projection that ablation moves towards (unused by add).
    """

    unit: Tensor
    amount: Tensor
    centre: Tensor


@dataclass(frozen=True, slots=True)
class RowSteering:
    """How a batch is steered: each row has its own direction and strength; 0 leaves the row alone.

    add: x ← x - amount·v; ablate: x ← x - amount·((x·v) - centre)·v, with v the row's unit direction.
    """

    form: SteeringForm
    span: SteeringSpan
    layers: Mapping[int, Direction]

    def select(self, rows: Tensor) -> RowSteering:
        """Return the steering of some rows (indices ``[k]``), in that order."""
        chosen = {
            layer: Direction(one.unit[rows], one.amount[rows], one.centre[rows]) for layer, one in self.layers.items()
        }
        return RowSteering(self.form, self.span, chosen)


class Steerer:
    """The handle that ``steer`` yields: says which positions the next forward pass steers.

    Until told otherwise nothing is steered. The caller sets ``positions`` before each forward pass, because only it
    knows where its rows' templates end.
    """

    def __init__(self, rows: RowSteering) -> None:
        self.rows = rows
        self.positions: Tensor | None = None
        """Which positions are steered, ``[rows, tokens]`` bool, or none."""

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """Return the residual stream ``[rows, tokens, d]`` after ``layer``, steered where ``positions`` says."""
        if self.positions is None:
            return hidden
        direction = self.rows.layers[layer]
        unit = direction.unit.to(hidden.dtype)[:, None, :]
        amount = direction.amount.to(hidden.dtype)[:, None, None]
        if self.rows.form is SteeringForm.ABLATE:
            along = (hidden * unit).sum(dim=-1, keepdim=True) - direction.centre.to(hidden.dtype)[:, None, None]
            amount = amount * along
        touched = self.positions[:, :, None] & (direction.amount != 0)[:, None, None]
        return torch.where(touched, hidden - amount * unit, hidden)


def decoder_blocks(model: nn.Module) -> Sequence[nn.Module]:
    """Return the decoder blocks of a causal LM, in order.

    They are the longest ``ModuleList`` of the base model (``model.layers``, ``transformer.h``, ...), which needs no
    list of architectures. Raises ``ModelLoadError`` when there is none.
    """
    base = getattr(model, "base_model", model)
    lists = [list(module) for module in base.modules() if isinstance(module, nn.ModuleList) and len(module) > 0]
    if not lists:
        raise ModelLoadError(f"{type(model).__name__} has no list of decoder blocks to hook")
    return max(lists, key=len)


@contextmanager
def record(blocks: Sequence[nn.Module], rows: Tensor, positions: Tensor) -> Iterator[list[Tensor]]:
    """Record the residual stream after every block at ``(rows[i], positions[i])`` of each forward pass.

    Yields a list that holds, after a forward pass, one ``[k, d]`` tensor for each block, as the pass itself saw it.
    """
    recorded: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        recorded.append(_hidden(output)[rows, positions].detach())

    with _hooked({index: keep for index in range(len(blocks))}, blocks):
        yield recorded


@contextmanager
def steer(blocks: Sequence[nn.Module], rows: RowSteering) -> Iterator[Steerer]:
    """Steer the blocks' outputs while the context lasts; the yielded handle says at which positions."""
    steerer = Steerer(rows)

    def hook_for(layer: int) -> Any:
        def change(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            steered = steerer.apply(layer, _hidden(output))
            return (steered, *output[1:]) if isinstance(output, tuple) else steered

        return change

    with _hooked({layer: hook_for(layer) for layer in rows.layers}, blocks):
        yield steerer


@contextmanager
def _hooked(hooks: Mapping[int, Any], blocks: Sequence[nn.Module]) -> Iterator[None]:
    handles = []
    try:
        for index, hook in hooks.items():
            handles.append(blocks[index].register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hidden(output: Any) -> Tensor:
    """Return the hidden states of a block's output, which older architectures wrap in a tuple."""
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor):
        raise ModelLoadError(f"a decoder block returned {type(hidden).__name__} instead of a tensor")
    return hidden
