"""Attention row by row against attention over each row's keys written out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rass.serving.attention import LAYOUT_KEYWORD, plan_rows, row_attention

HEADS, DIM, PADDING = 4, 8, 0
rows = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=6)


class _Cache:
    """A cache of one layer: ``slots`` hold every key that was ever written, slot 0 is nobody's."""

    def __init__(self, slots: torch.Tensor) -> None:
        self.slots = slots

    def update(self, *, key_states, value_states, layer_idx, kwargs):
        index = kwargs["read_index"][0]
        if index.numel() == 0:
            return key_states, value_states
        read = self.slots[:, index][None]
        return read, read


@settings(deadline=None, max_examples=40)
@given(rows, st.sampled_from([1, 2, 4]))
def test_every_row_sees_its_own_keys_and_no_others(lengths, key_heads):
    generator = torch.Generator().manual_seed(len(lengths))
    totals = [past + new for past, new in lengths]
    slots = torch.randn(key_heads, 1 + sum(totals), DIM, generator=generator)
    slots[:, PADDING] = 1e30  # what lies in a slot that is nobody's must not matter
    reads_cache = any(past for past, _ in lengths)
    read_index = torch.arange(1, 1 + sum(totals)) if reads_cache else torch.empty(0, dtype=torch.long)
    query = torch.randn(1, HEADS, sum(new for _, new in lengths), DIM, generator=generator)
    layout, index = plan_rows([new for _, new in lengths], totals, read_index, PADDING)
    output, _ = row_attention(
        SimpleNamespace(layer_idx=0),
        query,
        slots[None, :, 1:],
        slots[None, :, 1:],
        None,
        scaling=0.3,
        cache=_Cache(slots),
        read_index=[index],
        **{LAYOUT_KEYWORD: layout},
    )
    first_query, first_key = 0, 1
    for (past, new), total in zip(lengths, totals, strict=True):
        own = slots[:, first_key : first_key + total].repeat_interleave(HEADS // key_heads, dim=0)
        scores = query[0, :, first_query : first_query + new] @ own.transpose(1, 2) * 0.3
        visible = torch.ones(new, total, dtype=torch.bool).tril(past)
        expected = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ own
        found = output[0, first_query : first_query + new].transpose(0, 1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        first_query += new
        first_key += total


def test_it_runs_with_a_paged_cache_only():
    with pytest.raises(ValueError, match="continuous batching only"):
        row_attention(torch.nn.Identity(), *(torch.zeros(1, 1, 1, 1),) * 3, None)
