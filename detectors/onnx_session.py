"""One ONNX session: its providers as they really are, its threads, and padded batches of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

__all__ = ["FloatArray", "ModelFileError", "OnnxSession"]

FloatArray = npt.NDArray[np.float32]

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class ModelFileError(Exception):
    """A model or tokenizer file cannot be used; the message names it and says what is wrong."""


class OnnxSession:
    """A text classifier: ``input_ids`` and ``attention_mask`` ``[rows, tokens]`` in, float ``[rows, outputs]`` out.

    ``token_type_ids`` are given as zeros where the model asks for them. Its ``run`` may be called from many threads.
    """

    def __init__(self, path: Path, *, threads: int, device: str) -> None:
        """Load the model; raises ``ModelFileError``, also when ``device`` is ``cuda`` and CUDA does not become active.

        A listed provider may still fail to start (no driver, another CUDA version): onnxruntime then falls back to the
        CPU without an error. So what counts is what the session says it runs on.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads wait for work by burning the cores that the proxy serves requests with.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        wanted = [CPU]
        if device != "cpu" and CUDA in onnxruntime.get_available_providers():
            wanted = [CUDA, CPU]
        try:
            self._session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=wanted)
        except Exception as error:  # onnxruntime raises many types of its own, without a common base
            raise ModelFileError(f"{path} cannot be loaded by onnxruntime: {_first_line(error)}") from error
        self.provider: str = self._session.get_providers()[0]
        if device == "cuda" and self.provider != CUDA:
            raise ModelFileError(f"{path}: CUDA was asked for, but the session runs on {self.provider}")
        self._names = [entry.name for entry in self._session.get_inputs()]
        unknown = sorted(set(self._names) - set(_INPUTS))
        if unknown or "input_ids" not in self._names:
            raise ModelFileError(
                f"{path} takes {', '.join(self._names)}; a text classifier takes input_ids and at most "
                "attention_mask and token_type_ids"
            )
        self._output = self._session.get_outputs()[0].name

    def run(self, rows: Sequence[Sequence[int]], *, pad_id: int) -> FloatArray:
        """Return the first output ``[rows, outputs]`` for rows of token ids of any lengths of at least 1."""
        width = max(len(row) for row in rows)
        ids = np.full((len(rows), width), pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found = self._session.run([self._output], {name: values[name] for name in self._names})[0]
        return np.asarray(found, dtype=np.float32).reshape(len(rows), -1)

    @staticmethod
    def stack(rows: Sequence[FloatArray]) -> FloatArray:
        """Return single rows ``[outputs]`` as one array ``[rows, outputs]``."""
        return np.stack(rows)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
