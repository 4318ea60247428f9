"""Loads a chat model and its tokenizer with transformers, for the pipeline and for serving alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rass.errors import ModelLoadError
from rass.identity import ModelSource

__all__ = ["Pretrained", "load_pretrained"]


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model on its device, its tokenizer, and the revision that bundles are checked against."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str


def load_pretrained(source: ModelSource, *, device: str, dtype: str) -> Pretrained:
    """Load ``source``; raises ``ModelLoadError`` with what is wrong and what to do.

    ``device`` ``auto`` takes the first GPU if there is one.
    """
    target = _device(device)
    try:
        model = AutoModelForCausalLM.from_pretrained(source.location, dtype=getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(source.location)
        torch.nn.Module.to(model, target)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelLoadError(f"cannot load model {source.id!r} from {source.location}: {error}") from error
    revision = source.revision or str(getattr(model.config, "_commit_hash", None) or "")[:16]
    if not revision:
        raise ModelLoadError(f"model {source.id!r} has no revision; download it and give the folder instead")
    return Pretrained(model, tokenizer, revision)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # Without CUDA support torch answers with an AssertionError.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            f"device {name!r} cannot be used: {reason}; take cpu, or auto for what is there"
        ) from error
    return device
