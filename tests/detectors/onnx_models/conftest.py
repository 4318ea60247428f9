"""A tiny text classifier made on the spot: its logit is the sum of one weight for each known word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from detectors.manifest import ZoneTable, ZoneThresholds
from detectors.onnx_manifest import (
    MODEL_NAME,
    TOKENIZER_NAME,
    DetectorKind,
    DetectorManifest,
    OutputForm,
    write_detector,
)

WEIGHTS = {
    "[PAD]": 0.0,
    "[UNK]": 0.0,
    "[CLS]": 0.0,
    "[SEP]": 0.0,
    "kill": 2.0,
    "bomb": 4.0,
    "please": -1.0,
    "tea": -3.0,
}
MAX_TOKENS = 16

MANIFEST = DetectorManifest(
    kind=DetectorKind.BOUNDARY,
    name="tiny",
    license="Apache-2.0",
    command="tests",
    form=OutputForm.LOGIT,
    outputs=1,
    harmful=(0,),
    max_tokens=MAX_TOKENS,
    pad_id=0,
    scale=2.0,
    offset=0.5,
    limit=0.03,
    zones=ZoneTable({"en": ZoneThresholds(-1.0, 3.0)}, ZoneThresholds(-100.0, 3.0)),
    figures={},
)


def make_folder(folder: Path, manifest: DetectorManifest = MANIFEST, weights: Mapping[str, float] = WEIGHTS) -> Path:
    """Write model, tokenizer and `detector.json` into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(weights)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer.save(str(folder / TOKENIZER_NAME))
    table = np.array([[weight] for weight in weights.values()], dtype=np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["values"]),  # [rows, tokens, 1]
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["values", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["logits"], keepdims=0),
    ]
    shape = ["rows", "tokens"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 1])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "tokens"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / MODEL_NAME))
    write_detector(folder, manifest)
    return folder


@pytest.fixture(scope="session")
def tiny_folder_maker() -> Callable[..., Path]:
    """Return ``make_folder``."""
    return make_folder
