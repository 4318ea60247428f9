"""Loads the model to serve, and the bundle that belongs to it.

Both say in one sentence what is wrong when they cannot: these are the errors that a server meets at start-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from detectors.bundle import Bundle
from detectors.bundle import load as load_bundle_folder
from rass.errors import ModelLoadError
from rass.hooks import decoder_blocks
from rass.identity import REFERENCE, find_model
from rass.pretrained import load_pretrained

__all__ = ["ServedModel", "load_bundle", "load_model"]

_FEW_PARAMETERS = 50_000_000


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model ready to serve, with the facts that requests and bundles are checked against.

    ``names`` are what clients may call it; the first is its id. ``context_length`` counts prompt and answer together.
    ``default_temperature`` (0: greedy) and ``default_top_p`` are the model's own, for requests that leave them out.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    blocks: Sequence[nn.Module]
    names: tuple[str, ...]
    revision: str
    context_length: int
    hidden_size: int
    stop_ids: tuple[int, ...]
    default_temperature: float
    default_top_p: float

    @property
    def id(self) -> str:
        """The model's id, as ``/v1/models`` and bundles name it."""
        return self.names[0]

    @classmethod
    def wrap(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, names: Sequence[str], revision: str
    ) -> ServedModel:
        """Return a loaded model with its facts read from its configuration.

        The generation configuration decides how requests that name no temperature are decoded. Raises
        ``ModelLoadError`` when the configuration lacks what serving needs.
        """
        config = model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        if not context:
            raise ModelLoadError(f"the configuration of model {names[0]!r} names no max_position_embeddings")
        generation = model.generation_config
        ends = generation.eos_token_id if generation is not None else None
        stops = list(ends) if isinstance(ends, list) else [ends, tokenizer.eos_token_id]
        stop_ids = tuple(sorted({int(one) for one in stops if one is not None}))
        if not stop_ids:
            raise ModelLoadError(f"model {names[0]!r} names no end-of-sequence token; its answers would never end")
        samples = generation is not None and bool(generation.do_sample)
        temperature = getattr(generation, "temperature", None) if samples else 0.0
        top_p = getattr(generation, "top_p", None) if samples else 1.0
        model.train(False)
        return cls(
            model=model,
            tokenizer=tokenizer,
            blocks=decoder_blocks(model),
            names=tuple(dict.fromkeys(names)),
            revision=revision,
            context_length=int(context),
            hidden_size=int(config.hidden_size),
            stop_ids=stop_ids,
            default_temperature=1.0 if temperature is None else float(temperature),
            default_top_p=1.0 if top_p is None else float(top_p),
        )


def load_model(name: str, *, device: str = "auto", dtype: str = "float32") -> ServedModel:
    """Load ``reference``, a folder or a hub id; raises ``ModelLoadError`` with what is wrong and what to do.

    ``device`` ``auto`` takes the first GPU if there is one. A small model on the CPU runs on one thread: its matrices
    are too small to split, and the other cores are then free for HTTP.
    """
    source = find_model(name)
    loaded = load_pretrained(source, device=device, dtype=dtype)
    if not loaded.tokenizer.chat_template:
        raise ModelLoadError(f"model {source.id!r} has no chat template; give a chat model")
    if loaded.model.device.type == "cpu" and loaded.model.num_parameters() < _FEW_PARAMETERS:
        torch.set_num_threads(1)
    return ServedModel.wrap(loaded.model, loaded.tokenizer, names=(source.id, name), revision=loaded.revision)


def load_bundle(name: str, served: ServedModel) -> Bundle | None:
    """Load ``reference``, a bundle folder, or nothing for ``none``, and check that it was measured on this model.

    Raises ``BundleError``, or its ``ModelMismatch`` for a bundle of another model.
    """
    if name == "none":
        return None
    folder = Path(__file__).parents[1] / "reference" / "bundle" if name == REFERENCE else Path(name)
    bundle = load_bundle_folder(folder)
    bundle.check_model(served.id, served.revision, served.hidden_size, len(served.blocks))
    return bundle
