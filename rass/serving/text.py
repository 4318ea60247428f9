"""From token ids to text that may be shown: whole characters only, and nothing past a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Decode", "Detokenizer", "StopText"]

_REPLACEMENT = "\ufffd"


Decode = Callable[[list[int]], str]
"""Returns the text of tokens, without special tokens."""


class Detokenizer:
    """Turns a growing list of tokens into pieces of text; the pieces are the same however the tokens arrive.

    A token may hold part of a character, so a piece ends only where the text so far is whole. Each piece is decoded
    with the tokens of the one before it as context, because some tokenizers write a word's leading space only then.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._context = 0
        self._shown = 0

    def feed(self, token_ids: Sequence[int]) -> str:
        """Add tokens and return the new whole characters, which may be none."""
        self._tokens.extend(token_ids)
        piece, whole = self._pending()
        if not whole:
            return ""
        self._context, self._shown = self._shown, len(self._tokens)
        return piece

    def finish(self) -> str:
        """Return what is left at the end, without a character that was cut off by the end."""
        piece, _ = self._pending()
        self._context = self._shown = len(self._tokens)
        return piece.rstrip(_REPLACEMENT)

    def _pending(self) -> tuple[str, bool]:
        """Return the text that was not given out yet, and whether it ends with a whole character."""
        if self._shown == len(self._tokens):
            return "", False
        known = self._decode(before) if (before := self._tokens[self._context : self._shown]) else ""
        text = self._decode(self._tokens[self._context :])
        return text[len(known) :], not text.endswith(_REPLACEMENT)


class StopText:
    """Cuts text before the first stop string, also one that comes in several pieces.

    Text that could be the beginning of a stop string is held back until it is known.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False
        """Whether a stop string has come; nothing is given out after it."""

    def feed(self, text: str) -> str:
        """Add text and return what may be shown."""
        if self.found:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        places = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        held = max(self._overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Return what was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return the length of the longest end of ``text`` that begins ``stop``."""
        limit = min(len(text), len(stop) - 1)
        return next((size for size in range(limit, 0, -1) if text.endswith(stop[:size])), 0)
