"""transformers' continuous batching, told about rows.

``RowBatchingManager`` is ``ContinuousBatchingManager`` with five changes: outputs go to one function instead of a
queue, tokens are chosen row by row, attention looks at each row by itself, the rows of the step that runs can be
asked for, and a dying thread says so before its rows are failed. Everything else (threads, scheduling, paging,
cancellation) is the manager's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, PretrainedConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
    OutputRouter,
    ProtoPretrainedModel,
)
from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs
from transformers.generation.continuous_batching.requests import GenerationOutput

from rass.serving import attention
from rass.serving.plans import RowPlan
from rass.serving.residual import BatchRow, ResidualHooks
from rass.serving.sampling import RowSampler

__all__ = ["PAGE_TOKENS", "RowBatchingManager", "plain_attention"]

PAGE_TOKENS = 32
"""Tokens of a cache page: a row occupies whole pages."""

OutputSink = Callable[[Sequence[GenerationOutput]], None]


class _SinkRouter(OutputRouter):
    """Hands every output to one function, on the generation thread."""

    def __init__(self, sink: OutputSink) -> None:
        super().__init__()
        self._sink = sink

    def deliver(self, output: GenerationOutput) -> None:
        self._sink([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self._sink(outputs)


class RowBatchingManager(ContinuousBatchingManager):
    """Continuous batching for rows with plans of their own.

    ``plans`` maps request ids to plans; the caller adds a plan before its request and removes it after. ``sink`` gets
    the outputs of each step, on the generation thread. Prefix sharing is off: a shared prefix could hold keys and
    values of a steered row, and a reading needs every position to be computed. Graphs and compilation are off too,
    because a replay runs no hooks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        stop_ids: Sequence[int],
        cache_tokens: int,
        max_rows: int,
        max_batch_tokens: int,
        plans: Mapping[str, RowPlan],
        sink: OutputSink,
    ) -> None:
        config = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=cache_tokens // PAGE_TOKENS,
            max_batch_tokens=max_batch_tokens,
            max_requests_per_batch=max_rows,
            max_blocks_per_request=0,
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
            auto_switch_to_flash=False,
            safety_margin=0.0,  # the engine admits only what fits, so nothing needs holding back here
        )
        generation = GenerationConfig(do_sample=False, eos_token_id=list(stop_ids), max_new_tokens=1)  # type: ignore[no-untyped-call]
        super().__init__(cast(ProtoPretrainedModel, model), generation, config)
        self.output_router = _SinkRouter(sink)
        sampler = RowSampler(rows=self.rows, plans=plans)
        self.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([sampler]))
        self._layout_handle: Any = None
        self._died_of: Exception | None = None

    def switch_to_cb_friendly_attn(self, model: ProtoPretrainedModel, auto_switch_to_flash: bool = True) -> None:
        """Switch to attention row by row where every layer sees the whole sequence, else leave the choice to the base.

        A flash implementation that the model was loaded with looks at rows by itself already and stays.
        """
        current = model.config._attn_implementation
        if plain_attention(model, model.config) and not current.startswith(("flash", "kernels")):
            attention.register()
            model.set_attn_implementation(attention.ATTENTION_NAME)
            self._original_attn_impl = current
        else:
            super().switch_to_cb_friendly_attn(model, auto_switch_to_flash)

    def fatal_error(self) -> Exception | None:
        """Return what the generation thread died of, if it did; never later than its rows are told."""
        return self._died_of or self.background_thread_status.fatal_error

    def prepare(self, hooks: ResidualHooks, blocks: Sequence[nn.Module]) -> None:
        """Allocate the cache and attach the hooks, before ``start``; raises what the allocation raises."""
        self.warmup()
        hooks.attach(self.model, blocks)
        if self.model.config._attn_implementation == attention.ATTENTION_NAME:
            self._layout_handle = self.model.register_forward_pre_hook(self._add_layout, with_kwargs=True)

    def release(self, hooks: ResidualHooks) -> None:
        """Take the hooks off again, after the generation thread has stopped."""
        hooks.detach()
        if self._layout_handle is not None:
            self._layout_handle.remove()
            self._layout_handle = None

    def _handle_critical_error(self, error: Exception, batch_processor: ContinuousBatchProcessor | None) -> None:
        # The base fails the rows first and records the error after: whoever is told so and asks again finds it alive.
        self._died_of = error
        super()._handle_critical_error(error, batch_processor)

    def rows(self) -> list[BatchRow]:
        """Return the rows of the current step, in their order in the packed batch."""
        if self.batch_processor is None:
            return []
        batch = cast(ContinuousBatchingIOs, self.batch_processor.inputs_and_outputs)  # batching is not asynchronous
        return [
            BatchRow(
                future.state.request_id,
                # The offset was moved past this step's tokens when the step was prepared.
                future.state.position_offset - future.query_length,
                future.query_length,
                future.has_new_token,
            )
            for future in batch.requests_in_batch
        ]

    def _add_layout(self, _module: nn.Module, inputs: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        rows = self.rows()
        allocator = keywords["cache"].cache_allocators[FULL_ATTENTION]
        read_index: Tensor = keywords["read_index"][allocator.index]
        counts = [row.count for row in rows]
        layout, index = attention.plan_rows(
            counts, [row.first + row.count for row in rows], read_index, allocator.read_trash_index
        )
        read = list(keywords["read_index"])
        read[allocator.index] = index
        return inputs, {**keywords, "read_index": read, attention.LAYOUT_KEYWORD: layout}


def plain_attention(model: nn.Module, config: PretrainedConfig) -> bool:
    """Return whether every layer is plain full attention, all that attention row by row can do."""
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    plain = all(kind == FULL_ATTENTION for kind in kinds) if kinds else window is None
    unusual = ("attn_logit_softcapping", "attention_sinks", "attention_chunk_size")
    has_sinks = any(hasattr(module, "sinks") for module in model.modules())
    return plain and not has_sinks and all(getattr(config, name, None) is None for name in unusual)
