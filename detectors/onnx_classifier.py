"""An ONNX text classifier that gives calibrated logits of harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from detectors.onnx_manifest import (
    MODEL_NAME,
    TOKENIZER_NAME,
    DetectorKind,
    DetectorManifest,
    OutputForm,
    read_detector,
)
from detectors.onnx_session import FloatArray, ModelFileError
from detectors.onnx_windows import Windower
from detectors.runtime import RuntimeSettings, TextRuntime

__all__ = ["OnnxClassifier", "TextLogit", "raw_logits"]


@dataclass(frozen=True, slots=True)
class TextLogit:
    """The calibrated logit of a text: the highest of its windows; ``complete`` unless some of it was left out."""

    h: float
    complete: bool


class OnnxClassifier:
    """A verified folder with a running model; a context manager that closes it."""

    def __init__(self, manifest: DetectorManifest, runtime: TextRuntime) -> None:
        self.manifest = manifest
        self.runtime = runtime

    @classmethod
    def open(cls, folder: Path, kind: DetectorKind, settings: RuntimeSettings | None = None) -> Self:
        """Load a folder and start its runtime.

        Raises ``ModelFileError`` for a folder that was changed, cannot be run or holds a detector of another kind.
        """
        manifest = read_detector(folder)
        if manifest.kind is not kind:
            raise ModelFileError(f"{folder} holds a detector of kind {manifest.kind.value}, not {kind.value}")
        windower = Windower(folder / TOKENIZER_NAME, max_tokens=manifest.max_tokens, pad_id=manifest.pad_id)
        return cls(manifest, TextRuntime(folder / MODEL_NAME, windower, settings))

    async def logits(self, texts: Sequence[str], *, timeout_s: float) -> list[TextLogit]:
        """Return the logit of each text; raises what ``TextRuntime.scores`` raises."""
        found = await self.runtime.scores(texts, timeout_s=timeout_s)
        return [TextLogit(self._calibrated(one.outputs), one.complete) for one in found]

    def close(self) -> None:
        """Stop the runtime."""
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _calibrated(self, outputs: FloatArray) -> float:
        raw = raw_logits(outputs, self.manifest.form, self.manifest.harmful)
        return float(self.manifest.scale * raw.max() + self.manifest.offset)


def raw_logits(outputs: FloatArray, form: OutputForm, harmful: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the uncalibrated logit of harm ``[rows]`` from outputs ``[rows, outputs]``.

    Softmax: log-odds of the harmful classes together against the others. Sigmoid: the highest harmful logit.
    """
    values = outputs.astype(np.float64)
    chosen = np.zeros(values.shape[1], dtype=bool)
    chosen[list(harmful)] = True
    if form is OutputForm.SOFTMAX:
        ours: npt.NDArray[np.float64] = np.logaddexp.reduce(values[:, chosen], axis=1)
        others: npt.NDArray[np.float64] = np.logaddexp.reduce(values[:, ~chosen], axis=1)
        return ours - others
    highest: npt.NDArray[np.float64] = values[:, chosen].max(axis=1)
    return highest
