"""Texts of any length as windows of token ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tokenizers

from detectors.onnx_session import ModelFileError

__all__ = ["Windower", "Windows"]

_CHARACTERS_A_TOKEN = 24
"""More characters than a token has on average in any text: a longer text is cut before it is tokenised."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one text, each with the model's special tokens; ``complete`` unless its middle was left out."""

    ids: tuple[tuple[int, ...], ...]
    complete: bool


class Windower:
    """Cuts texts into overlapping windows; of a text with too many of them, head and tail remain.

    Never raises on any string: lone surrogates, which no encoding knows, are read as question marks.
    """

    def __init__(self, tokenizer_file: Path, *, max_tokens: int, max_windows: int = 8, pad_id: int = 0) -> None:
        """Load a ``tokenizer.json``; raises ``ModelFileError`` for one that cannot be read.

        ``max_tokens`` counts the special tokens of a window; neighbours overlap by a quarter of it.
        """
        if max_tokens < 8 or max_windows < 2:
            raise ValueError("max_tokens must be at least 8 and max_windows at least 2: a head and a tail")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the Rust library raises plain Exception
            raise ModelFileError(f"{tokenizer_file} is no tokenizer that can be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, stride=max_tokens // 4)
        self._max_windows = max_windows
        self._longest = max_tokens * max_windows * _CHARACTERS_A_TOKEN
        self.pad_id = pad_id

    def windows(self, text: str) -> Windows:
        """Return the windows of ``text``; at least one, with at least one token."""
        short = text if len(text) <= self._longest else f"{text[: self._longest // 2]} {text[-self._longest // 2 :]}"
        encoding = self._tokenizer.encode(short.encode("utf-8", "replace").decode("utf-8"))
        found = [tuple(one.ids) or (self.pad_id,) for one in (encoding, *encoding.overflowing)]
        complete = len(found) <= self._max_windows and short is text
        if len(found) > self._max_windows:
            head = (self._max_windows + 1) // 2
            found = found[:head] + found[len(found) - (self._max_windows - head) :]
        return Windows(tuple(found), complete)
