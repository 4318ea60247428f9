"""Residual streams as the vLLM plugin ``vllm-lens`` sends them: a tensor's bytes, compressed, in base64.

The form is ``{"data", "dtype", "original_dtype", "shape", "compression": "zstd"}``; bfloat16 travels as the int16 of
its bits. Nothing in it is pickled, and nothing here would run it if it were.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

__all__ = ["decoded_residuals"]

FloatArray = npt.NDArray[np.float32]

_BFLOAT16 = "torch.bfloat16"
_STORED: dict[str, np.dtype[Any]] = {
    _BFLOAT16: np.dtype("<u2"),
    "torch.float16": np.dtype("<f2"),
    "torch.float32": np.dtype("<f4"),
}


def decoded_residuals(encoded: object, shape: tuple[int, int, int], positions: Sequence[int]) -> FloatArray:
    """Return the residual streams ``[n_layers, len(positions), d]`` of a tensor of ``shape`` ``[n_layers, tokens, d]``.

    Raises ``ValueError`` for another shape, an unknown form, or more or fewer bytes than the shape has, before anything
    of that size is unpacked.
    """
    if not isinstance(encoded, Mapping) or not isinstance(encoded.get("data"), str):
        raise ValueError("the captured residual streams are no tensor")
    if encoded.get("shape") != list(shape):
        raise ValueError(f"the captured residual streams have the shape {encoded.get('shape')}, expected {list(shape)}")
    kind = str(encoded.get("original_dtype"))
    stored = _STORED.get(kind)
    if stored is None or encoded.get("compression") != "zstd":
        form = f"{kind}, compression {encoded.get('compression')}"
        raise ValueError(f"the captured residual streams have an unknown form ({form})")
    packed = base64.b64decode(encoded["data"], validate=True)
    size = math.prod(shape) * stored.itemsize
    try:
        if zstandard.frame_content_size(packed) != size:
            raise ValueError(f"the captured residual streams do not hold {size} bytes")
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    except zstandard.ZstdError as error:
        raise ValueError(f"the captured residual streams cannot be unpacked: {error}") from error
    read: npt.NDArray[Any] = np.frombuffer(raw, dtype=stored).reshape(shape)[:, list(positions)]
    if kind != _BFLOAT16:
        return read.astype(np.float32)
    # A bfloat16 is the upper half of a float32.
    return np.left_shift(read.astype(np.uint32), np.uint32(16)).view(np.float32)
