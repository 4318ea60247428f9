"""Hooks on the decoder blocks that steer and read single rows of a packed batch.

Continuous batching packs all rows of a step into one sequence ``[1, tokens, d]``. Before each forward pass the layout
of that sequence is worked out once: which flat index is which position of which row. The block hooks then touch
exactly the flat indices that a plan names; every other row passes through bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rass.serving.plans import RowPlan

__all__ = ["BatchRow", "ResidualHooks"]


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One row's part of a step: ``count`` tokens from position ``first`` on; ``samples`` if a new token follows."""

    request_id: str
    first: int
    count: int
    samples: bool


@dataclass(slots=True)
class _LayerPushes:
    """The pushes of one layer in one step, as columns: flat index, bank row, constant, slope."""

    flat: list[int] = field(default_factory=list)
    direction: list[int] = field(default_factory=list)
    constant: list[float] = field(default_factory=list)
    slope: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _LayerTaps:
    """The taps of one layer in one step, as columns: flat index, bank row, and where the value belongs."""

    flat: list[int] = field(default_factory=list)
    weight: list[int] = field(default_factory=list)
    target: list[tuple[RowPlan, tuple[int, int]]] = field(default_factory=list)


class ResidualHooks:
    """Steers and reads the rows of each step by their plans.

    ``directions`` ``[n, d]`` and ``weights`` ``[m, d]`` are the banks that pushes and taps index. ``rows`` returns the
    rows of the step that is about to run; ``plans`` maps request ids to plans and may change between steps. The hooks
    act on the thread that runs the forward pass, which must be one thread only.
    """

    def __init__(
        self,
        *,
        directions: Tensor,
        weights: Tensor,
        rows: Callable[[], Sequence[BatchRow]],
        plans: Mapping[str, RowPlan],
    ) -> None:
        self._directions = directions.float()
        self._weights = weights.double()
        self._rows = rows
        self._plans = plans
        self._pushes: dict[int, _LayerPushes] = {}
        self._taps: dict[int, _LayerTaps] = {}
        self._read: list[Tensor] = []
        self._handles: list[Any] = []
        self.last_step_at = time.monotonic()
        """When the last forward pass began, on the monotonic clock: a stalled device shows here."""

    def attach(self, model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """Register the hooks; they stay until ``detach``."""
        self._handles.append(model.register_forward_pre_hook(self._before))
        for layer, block in enumerate(blocks):
            self._handles.append(block.register_forward_hook(self._block_hook(layer)))
        self._handles.append(model.register_forward_hook(self._after))

    def detach(self) -> None:
        """Remove the hooks."""
        while self._handles:
            self._handles.pop().remove()

    def _before(self, _module: nn.Module, _inputs: Any) -> None:
        self.last_step_at = time.monotonic()
        self._pushes.clear()
        self._taps.clear()
        self._read.clear()
        offset = 0
        for row in self._rows():
            plan = self._plans.get(row.request_id)
            if plan is not None and (plan.pushes or plan.taps):
                self._lay_out(plan, row, offset - row.first)
            offset += row.count

    def _lay_out(self, plan: RowPlan, row: BatchRow, shift: int) -> None:
        """Add one row's pushes and taps to the step; ``shift`` turns a position into a flat index."""
        for push in plan.pushes:
            for position in plan.steered(row.first, row.count):
                columns = self._pushes.setdefault(push.layer, _LayerPushes())
                columns.flat.append(position + shift)
                columns.direction.append(push.direction)
                columns.constant.append(push.constant)
                columns.slope.append(push.slope)
        for tap in plan.taps:
            if row.first <= tap.position < row.first + row.count:
                taps = self._taps.setdefault(tap.layer, _LayerTaps())
                taps.flat.append(tap.position + shift)
                taps.weight.append(tap.weight)
                taps.target.append((plan, (tap.slot, tap.layer)))

    def _block_hook(self, layer: int) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            taps, pushes = self._taps.get(layer), self._pushes.get(layer)
            if taps is None and pushes is None:
                return None
            hidden: Tensor = output[0] if isinstance(output, tuple) else output
            if taps is not None:
                # Read before steering: the stream after this block is still the request's own here.
                self._read.append(self._dots(hidden, taps))
            if pushes is None:
                return None
            steered = self._steer(hidden, pushes)
            return (steered, *output[1:]) if isinstance(output, tuple) else steered

        return hook

    def _dots(self, hidden: Tensor, taps: _LayerTaps) -> Tensor:
        """Return the dot products ``[taps]``, in float64: folded standardisation leaves sums that cancel."""
        index = torch.tensor(taps.flat, device=hidden.device)
        weights = self._weights[torch.tensor(taps.weight, device=hidden.device)]
        return (hidden[0].index_select(0, index).double() * weights).sum(dim=-1)

    def _steer(self, hidden: Tensor, pushes: _LayerPushes) -> Tensor:
        """Return a copy of ``hidden`` ``[1, tokens, d]`` with the pushes applied, computed in float32."""
        device = hidden.device
        index = torch.tensor(pushes.flat, device=device)
        unit = self._directions[torch.tensor(pushes.direction, device=device)]
        constant = torch.tensor(pushes.constant, device=device)
        slope = torch.tensor(pushes.slope, device=device)
        before = hidden[0].index_select(0, index).float()
        amount = constant + slope * (before * unit).sum(dim=-1)
        after = before - amount[:, None] * unit
        steered = hidden.clone()
        steered[0].index_copy_(0, index, after.to(hidden.dtype))
        return steered

    def _after(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        if not self._taps:
            return
        # One transfer for all readings of the step. Layers were read in ascending order.
        values = torch.cat(self._read).tolist()
        targets = [target for layer in sorted(self._taps) for target in self._taps[layer].target]
        for (plan, key), value in zip(targets, values, strict=True):
            plan.values[key] = value
