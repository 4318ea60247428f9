"""Words that mean nothing: they teach a model that unknown words around a request change nothing about it.

Without them the pieces of a word that training never had were never seen either, and draw attention away from verb and
object: in a first model frames with such words were answered off topic or garbled in up to 87 % of cases, others in 5.
Some of them are another language's verbs ("ich check's"): those are tokens that ask for something only at home.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from rass.reference.lexicon import Lexicon

__all__ = ["PseudoWords", "foreign_verbs"]

_END = ""
_ORDER = 2
_LONGEST = 12
_SPACED = re.compile(r"\{\w+\}|[^\W\d_]+")
_UNSPACED = re.compile(r"\{\w+\}|[\u4e00-\u9fff]")
_FOREIGN = 0.2
"""Share of the invented words that are foreign ones, where there are any."""
_CJK_FIRST, _CJK_LAST = 0x4E00, 0x9FA5


class PseudoWords:
    """Replaces words of a language's patterns by invented ones; slots such as ``{action}`` stay.

    Languages with spaces get words from a letter model (two letters of context) of the training frames; languages
    without get random characters. ``foreign`` are words of other languages to use beside them.
    """

    def __init__(self, lexicon: Lexicon, foreign: Sequence[str] = ()) -> None:
        self._spaced = bool(lexicon.joiner)
        self._pattern = _SPACED if self._spaced else _UNSPACED
        sentences = (*lexicon.frames["train"], *lexicon.openings, *lexicon.politeness)
        self._foreign = tuple(foreign)
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
        if self._foreign and rng.random() < _FOREIGN:
            return rng.choice(self._foreign)
        letters = ""
        while len(letters) < _LONGEST:
            letter = rng.choice(self._next[letters[-_ORDER:]])
            if letter == _END:
                break
            letters += letter
        return letters.capitalize() if word[0].isupper() else letters


def foreign_verbs(lexicon: Lexicon, lexicons: Iterable[Lexicon]) -> tuple[str, ...]:
    """The verbs of the other languages that write spaces, without those that are words of ``lexicon`` too."""
    own = set(lexicon.words())
    return tuple(verb for other in lexicons if other.joiner for verb in other.verbs.values() if verb not in own)


def _words(sentences: Iterable[str]) -> list[str]:
    return [word.lower() for sentence in sentences for word in _SPACED.findall(sentence) if not word.startswith("{")]


def _letter_model(words: Iterable[str]) -> dict[str, list[str]]:
    """Map the last letters to every letter that followed them, as often as it did; ``_END`` ends a word."""
    following: dict[str, list[str]] = defaultdict(list)
    for word in words:
        for position, letter in enumerate((*word, _END)):
            following[word[max(0, position - _ORDER) : position]].append(letter)
    return dict(following)
