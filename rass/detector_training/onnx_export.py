"""From a torch text classifier to the ONNX folder that `detectors.onnx_classifier` reads.

Any sequence-classification model of transformers will do: a guard model from the hub or a folder. Outputs are compared
with torch's on made-up tokens before anything is kept.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from detectors.boundary_zones import NOTHING_IS_BENIGN
from detectors.onnx_manifest import (
    MODEL_NAME,
    TOKENIZER_NAME,
    DetectorKind,
    DetectorManifest,
    OutputForm,
    write_detector,
)
from detectors.onnx_session import FloatArray, OnnxSession
from rass.errors import InputError

__all__ = ["SequenceClassifier", "export_classifier", "export_network", "labels_of"]

_TOLERANCE = 1e-3
_LONGEST = 512


class SequenceClassifier(Protocol):
    """A network from token ids and mask ``[rows, tokens]`` to outputs ``[rows, outputs]``."""

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""
        ...


class _Logits(torch.nn.Module):
    """A transformers model as a plain function of two tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.model(input_ids=input_ids, attention_mask=attention_mask).logits)


def labels_of(model: PreTrainedModel) -> dict[str, int]:
    """Return a model's class names with their output columns."""
    return {str(name): int(column) for column, name in (model.config.id2label or {}).items()}


def export_classifier(
    source: str,
    out: Path,
    *,
    kind: DetectorKind,
    harmful: Sequence[str],
    license: str,
    form: OutputForm | None = None,
    int8: bool = True,
    max_tokens: int | None = None,
) -> DetectorManifest:
    """Convert a hub or local sequence-classification model into the folder ``out``.

    ``harmful`` names the classes that mean harm; ``form`` defaults to what the model's problem type says. The result
    calls nothing benign until `calibrate` has given it thresholds. Raises ``InputError`` for a model that cannot be
    read or converted, or for class names that it doesn't have.
    """
    try:
        model = AutoModelForSequenceClassification.from_pretrained(source, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(f"{source} is no sequence-classification model that can be loaded: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"{source} has no tokenizer.json; only tokenizers of the Rust library run without torch")
    labels = labels_of(model)
    unknown = sorted(set(harmful) - labels.keys())
    if unknown or not harmful:
        raise InputError(f"name the classes that mean harm; {source} has {', '.join(labels)}, not {', '.join(unknown)}")
    if form is None:
        several = model.config.problem_type == "multi_label_classification"
        form = OutputForm.LOGIT if len(labels) == 1 else OutputForm.SIGMOID if several else OutputForm.SOFTMAX
    positions = getattr(model.config, "max_position_embeddings", None) or _LONGEST
    manifest = DetectorManifest(
        kind=kind,
        name=Path(source).name,
        license=license,
        command=f"rass detector export {Path(source).name} --harmful {' '.join(harmful)}",
        form=form,
        outputs=len(labels),
        harmful=tuple(labels[name] for name in harmful),
        # Some models spend two positions on offsets.
        max_tokens=max_tokens or min(_LONGEST, positions - 2),
        pad_id=tokenizer.pad_token_id or 0,
        scale=1.0,
        offset=0.0,
        limit=0.03,
        zones=NOTHING_IS_BENIGN,
        figures={},
    )
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(out / TOKENIZER_NAME))
    export_network(_Logits(model), out / MODEL_NAME, vocabulary=model.config.vocab_size, int8=int8)
    write_detector(out, manifest)
    return manifest


def export_network(network: torch.nn.Module, path: Path, *, vocabulary: int, int8: bool) -> float:
    """Write ``network`` (a ``SequenceClassifier``) as ONNX and return how far its outputs are from torch's.

    ``int8`` quantises the weights of matrix products and embeddings (dynamic quantisation: activations are scaled as
    they come). Each channel has a scale of its own, which brings a MiniLM twice as close to float for 0.1 MB, and
    weights take 7 of the 8 bits, so that products don't saturate on processors without VNNI. Raises ``InputError``
    when the plain conversion doesn't compute what torch computes, or fails.
    """
    network = network.eval()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain = Path(folder) / MODEL_NAME
        ids, mask = _sample(vocabulary, rows=2, tokens=9)
        dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        try:
            torch.onnx.export(
                network,
                (ids, mask),
                str(plain),
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes={"input_ids": dynamic, "attention_mask": dynamic},
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(f"the model cannot be converted to ONNX: {str(error).splitlines()[0]}") from error
        distance = _distance(network, plain, vocabulary)
        if distance > _TOLERANCE:
            raise InputError(f"the converted model computes something else than torch (by {distance:.2g})")
        if not int8:
            shutil.copyfile(plain, path)
            return distance
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
        return _distance(network, path, vocabulary)


def _distance(network: torch.nn.Module, path: Path, vocabulary: int) -> float:
    """Return the largest difference of outputs over batches of several shapes."""
    session = OnnxSession(path, threads=1, device="cpu")
    worst = 0.0
    for rows, tokens in ((1, 1), (3, 17), (5, 4)):
        ids, mask = _sample(vocabulary, rows=rows, tokens=tokens)
        with torch.no_grad():
            expected = network(ids, mask).numpy()
        lengths = mask.sum(1).tolist()
        found: FloatArray = session.run(
            [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)], pad_id=0
        )
        worst = max(worst, float(np.abs(found - expected.reshape(rows, -1)).max()))
    return worst


def _sample(vocabulary: int, *, rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return made-up ids and a mask that pads every second row by half."""
    generator = torch.Generator().manual_seed(rows * 1_000 + tokens)
    ids = torch.randint(min(4, vocabulary - 1), vocabulary, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if tokens > 1:
        mask[1::2, (tokens + 1) // 2 :] = 0
        ids[mask == 0] = 0
    return ids, mask


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about its own future, and about libraries that we do not use, off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "root")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
