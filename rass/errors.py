"""The errors of the pipeline, each with the exit code that the command line gives it.

RassError (1)
├── InputError (2)            bad arguments, prompts, models or folders
│   └── ModelLoadError
├── StageError (1)            a stage cannot go on with what it measured
└── ValidationRefused (3)     the vectors were built and are not good enough to export
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = ["InputError", "ModelLoadError", "RassError", "StageError", "ValidationRefused"]


class RassError(Exception):
    """Base of every error that the command line reports as one sentence instead of a traceback."""

    exit_code: ClassVar[int] = 1


class InputError(RassError):
    """Something that the caller gave cannot be used; the message says what to give instead."""

    exit_code: ClassVar[int] = 2


class ModelLoadError(InputError):
    """A model, its tokenizer or its chat template cannot be loaded or does not fit the pipeline."""


class StageError(RassError):
    """A stage measured something that it cannot go on from, such as a model that refuses nothing."""


class ValidationRefused(RassError):
    """Validation failed, so nothing is exported; ``reasons`` holds one sentence for each limit that was missed."""

    exit_code: ClassVar[int] = 3

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("the bundle is not exported: " + "; ".join(reasons))
        self.reasons = tuple(reasons)
