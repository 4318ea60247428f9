"""Words that mean nothing: they teach a model that unknown words around a request change nothing about it.

Without them the pieces of a word that training never had were never seen either, and draw attention away from verb and
object: in a first model frames with such words were answered off topic or garbled in up to 87 % of cases, others in 5.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable

from rass.reference.lexicon import Lexicon

__all__ = ["PseudoWords"]

_END = ""
_ORDER = 2
_LONGEST = 12
_SPACED = re.compile(r"\{\w+\}|[^\W\d_]+")
_UNSPACED = re.compile(r"\{\w+\}|[\u4e00-\u9fff]")
_CJK_FIRST, _CJK_LAST = 0x4E00, 0x9FA5


class PseudoWords:
    """Replaces words of a language's patterns by invented ones; slots such as ``{action}`` stay.

    Languages with spaces get words from a letter model (two letters of context) of the training frames; languages
    without get random characters.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._spaced = bool(lexicon.joiner)
        self._pattern = _SPACED if self._spaced else _UNSPACED
        sentences = (*lexicon.frames["train"], *lexicon.openings, *lexicon.politeness)
        self._next = _letter_model(_words(sentences)) if self._spaced else {}

    def disturb(self, pattern: str, rng: random.Random) -> str:
        """Replace a random share of the pattern's words."""
        share = rng.uniform(0.1, 0.7)

        def replaced(match: re.Match[str]) -> str:
            found = match.group()
            return found if found.startswith("{") or rng.random() >= share else self._invented(found, rng)

        return self._pattern.sub(replaced, pattern)

    def _invented(self, word: str, rng: random.Random) -> str:
        if not self._spaced:
            return chr(rng.randint(_CJK_FIRST, _CJK_LAST))
        letters = ""
        while len(letters) < _LONGEST:
            letter = rng.choice(self._next[letters[-_ORDER:]])
            if letter == _END:
                break
            letters += letter
        return letters.capitalize() if word[0].isupper() else letters


def _words(sentences: Iterable[str]) -> list[str]:
    return [word.lower() for sentence in sentences for word in _SPACED.findall(sentence) if not word.startswith("{")]


def _letter_model(words: Iterable[str]) -> dict[str, list[str]]:
    """Map the last letters to every letter that followed them, as often as it did; ``_END`` ends a word."""
    following: dict[str, list[str]] = defaultdict(list)
    for word in words:
        for position, letter in enumerate((*word, _END)):
            following[word[max(0, position - _ORDER) : position]].append(letter)
    return dict(following)
