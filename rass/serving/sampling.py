"""Choosing each row's next token by the row's own settings.

The manager takes the highest score of each row, so a greedy row is left as it is. A sampled row gets noise from its
own generator added to its scaled log-probabilities: the maximum of ``logit + Gumbel noise`` is a draw from the softmax
(the Gumbel-max trick), and because nobody else uses that generator, a seed gives the same answer in any company.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from rass.serving.plans import RowPlan, RowSampling
from rass.serving.residual import BatchRow

__all__ = ["RowSampler", "row_sampling"]

_GREEDY_BELOW = 1e-5  # a temperature this small is greedy; dividing by it would overflow


def row_sampling(temperature: float, top_p: float, seed: int | None, device: torch.device | str) -> RowSampling | None:
    """Return a row's sampling state, or ``None`` for greedy; without a seed a random one is drawn."""
    if temperature < _GREEDY_BELOW:
        return None
    generator = torch.Generator(device=device)
    generator.manual_seed(secrets.randbits(63) if seed is None else seed)
    return RowSampling(temperature=temperature, top_p=top_p, generator=generator)


class RowSampler(LogitsProcessor):
    """A logits processor that samples each row by its plan, on the generation thread."""

    supports_continuous_batching = True

    def __init__(self, *, rows: Callable[[], Sequence[BatchRow]], plans: Mapping[str, RowPlan]) -> None:
        self._rows = rows
        self._plans = plans

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores ``[rows, vocabulary]`` whose maximum is each row's next token.

        Rows that get no token in this step (a prompt cut into chunks) leave unused scores at the end.
        """
        index: list[int] = []
        chosen: list[RowSampling] = []
        sampling_rows = [row for row in self._rows() if row.samples]
        for place, row in enumerate(sampling_rows):
            plan = self._plans.get(row.request_id)
            if plan is not None and plan.sampling is not None:
                index.append(place)
                chosen.append(plan.sampling)
        if not chosen:
            return scores
        rows = torch.tensor(index, device=scores.device)
        temperatures = torch.tensor([one.temperature for one in chosen], device=scores.device)
        scaled = scores.index_select(0, rows) / temperatures[:, None]
        if any(one.top_p < 1.0 for one in chosen):
            scaled = _nucleus(scaled, torch.tensor([one.top_p for one in chosen], device=scores.device))
        noise = torch.stack(
            [torch.empty_like(scaled[i]).exponential_(generator=one.generator) for i, one in enumerate(chosen)]
        )
        return scores.index_copy(0, rows, scaled - noise.log())


def _nucleus(scores: Tensor, top_p: Tensor) -> Tensor:
    """Mask all but the fewest tokens whose probabilities reach ``top_p`` ``[rows]``; the likeliest always stays."""
    ordered, order = scores.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    beyond = before >= top_p[:, None]
    beyond[:, 0] = False
    return scores.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
