"""Attention over a packed batch that looks at each row by itself.

The dense attention of continuous batching multiplies every query with every key of all rows and masks what belongs to
somebody else: with 32 short rows that is 32 times the work, and a row that overflowed would poison the others, because
0 x NaN is NaN. Here rows that add one token share one padded call, and a row that adds more (a prompt or a chunk of
one) has a call of its own. Nothing of one row ever meets another's keys or values.

The step's layout is worked out once, before the forward pass, and travels to every layer in the model's keyword
arguments, the way the cache itself does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.generation.continuous_batching.cache import PagedAttentionCache

__all__ = ["ATTENTION_NAME", "LAYOUT_KEYWORD", "RowLayout", "plan_rows", "register"]

ATTENTION_NAME = "rass_rows"
LAYOUT_KEYWORD = "row_layout"


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A row that adds several tokens: where its queries and keys lie, and its mask if some keys were cached."""

    queries: slice
    keys: slice
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How the rows of one step lie in the packed queries and in the keys that the cache returns.

    ``singles`` ``[s]`` are the flat query indices of the rows that add one token; their keys come first, padded to
    ``width`` each, with ``mask`` ``[s, 1, 1, width]`` true where a key is real. The prompts' keys follow.
    """

    singles: Tensor
    width: int
    mask: Tensor | None
    prompts: tuple[_Prompt, ...]


def plan_rows(
    query_counts: Sequence[int], key_counts: Sequence[int], read_index: Tensor, padding: int
) -> tuple[RowLayout, Tensor]:
    """Return the layout of a step and the cache indices to read for it.

    ``query_counts`` and ``key_counts`` hold each row's new and total tokens; ``read_index`` is the flat index of cache
    slots of all rows, empty when no row has cached keys (the cache then returns the new keys as they are); ``padding``
    is a cache slot that no row uses.
    """
    reads_cache = read_index.numel() > 0
    device = read_index.device
    single_flat: list[int] = []
    single_start: list[int] = []
    single_count: list[int] = []
    pieces: list[Tensor] = []
    prompts: list[_Prompt] = []
    alone = [reads_cache and count == 1 for count in query_counts]
    width = max((keys for keys, single in zip(key_counts, alone, strict=True) if single), default=0)
    packed = width * sum(alone)
    query, key = 0, 0
    for new, total, single in zip(query_counts, key_counts, alone, strict=True):
        if single:
            single_flat.append(query)
            single_start.append(key)
            single_count.append(total)
        else:
            mask = None
            if total > new:
                mask = torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)
            prompts.append(_Prompt(slice(query, query + new), slice(packed, packed + total), mask))
            packed += total
            if reads_cache:
                pieces.append(read_index[key : key + total])
        query += new
        key += total
    if not single_flat:
        layout = RowLayout(torch.empty(0, dtype=torch.long, device=device), 0, None, tuple(prompts))
        return layout, torch.cat(pieces) if pieces else read_index
    places = torch.arange(width, device=device)[None, :]
    real = places < torch.tensor(single_count, device=device)[:, None]
    slots = torch.tensor(single_start, device=device)[:, None] + places
    padded = torch.where(real, read_index[slots.clamp(max=read_index.numel() - 1)], padding)
    layout = RowLayout(torch.tensor(single_flat, device=device), width, real[:, None, None, :], tuple(prompts))
    return layout, torch.cat([padded.flatten(), *pieces])


def row_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cache: PagedAttentionCache | None = None,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """Attention interface of transformers: ``query`` ``[1, heads, tokens, d]`` → output ``[1, tokens, heads, d]``."""
    if cache is None:
        raise ValueError(f"attention {ATTENTION_NAME!r} runs inside continuous batching only")
    layout: RowLayout = keywords[LAYOUT_KEYWORD]
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=keywords)
    grouped = query.shape[1] != key.shape[1]
    output = torch.empty_like(query)
    if layout.mask is not None:
        rows, heads = len(layout.singles), key.shape[1]
        shape = (heads, rows, layout.width, key.shape[-1])
        end = rows * layout.width
        attended = scaled_dot_product_attention(
            query[0].index_select(1, layout.singles).transpose(0, 1).unsqueeze(2),
            key[0, :, :end].reshape(shape).transpose(0, 1),
            value[0, :, :end].reshape(shape).transpose(0, 1),
            attn_mask=layout.mask,
            scale=scaling,
            enable_gqa=grouped,
        )
        output[0].index_copy_(1, layout.singles, attended.squeeze(2).transpose(0, 1))
    for prompt in layout.prompts:
        output[:, :, prompt.queries] = scaled_dot_product_attention(
            query[:, :, prompt.queries],
            key[:, :, prompt.keys],
            value[:, :, prompt.keys],
            attn_mask=prompt.mask,
            is_causal=prompt.mask is None,
            scale=scaling,
            enable_gqa=grouped,
        )
    return output.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the attention known to transformers under ``ATTENTION_NAME``; calling it again changes nothing."""
    AttentionInterface.register(ATTENTION_NAME, row_attention)
