"""Finding the cues of refusals: lexicons of phrases in many languages, and where they occur in an answer.

A lexicon maps cue classes (apology, inability, act of helping, judgement …) to phrases. The classes are the same in all
languages, so what is learnt about them in one language holds for the others, and a further language is one file.
Phrase syntax: ``word*`` matches every ending; ``a ~ b`` matches ``b`` up to 60 characters after ``a`` in the same
sentence.
Languages written without spaces, or with rich endings, set ``whole_words`` to false: their phrases match anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple, TypeAlias

from detectors.refusal_text import normalize

_GAP = " ~ "
_GAP_CHARACTERS = 60
_STEM_KEY = 3  # stems are looked up by their first three letters
_NOT_LATIN = re.compile(r"[\u0590-\u06ff\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


class Cue(NamedTuple):
    """One occurrence: class, phrase as normalised, sentence index and character position within that sentence."""

    name: str
    phrase: str
    sentence: int
    position: int


@dataclass(frozen=True, slots=True)
class _Phrase:
    name: str
    first: str
    then: str | None


_Index: TypeAlias = dict[str, dict[str, list[_Phrase]]]
"""Phrases by a key that the text must have and the character after it (``""``: any other), in the order of reading."""


class CueFinder:
    """Finds the cues of all lexicons at once, so no language has to be known and mixed answers are read as well.

    Cost grows with the length of the text, not with the number of phrases.
    """

    def __init__(self, lexicons: Iterable[tuple[bool, Mapping[str, Sequence[str]]]]) -> None:
        """Index ``(whole_words, phrases by class)`` pairs; raises ``ValueError`` for a stem that is too short."""
        self._by_word: _Index = {}
        self._by_stem: _Index = {}
        self._by_start: _Index = {}
        seen: set[_Phrase] = set()
        for whole_words, cues in lexicons:
            for name, texts in cues.items():
                for text in texts:
                    phrase = _phrase(name, text, whole_words)
                    if phrase not in seen:
                        seen.add(phrase)
                        self._index(phrase, whole_words)

    def find(self, sentences: Sequence[str]) -> list[Cue]:
        """Return every cue in ``sentences`` (as ``refusal_text.normalize`` leaves them), in reading order."""
        found: list[Cue] = []
        for index, sentence in enumerate(sentences):
            padded = f" {sentence} "
            self._find_words(padded, index, found)
            if not sentence.isascii() and _NOT_LATIN.search(sentence):
                self._find_anywhere(padded, index, found)
        return found

    def _index(self, phrase: _Phrase, whole_words: bool) -> None:
        if not whole_words:
            _put(self._by_start, phrase.first[:2], phrase.first[2:3], phrase)
            return
        word, _, rest = phrase.first[1:].partition(" ")
        if rest or phrase.first.endswith(" "):
            _put(self._by_word, word, rest[:1], phrase)
        elif len(word) >= _STEM_KEY:
            _put(self._by_stem, word[:_STEM_KEY], word[_STEM_KEY : _STEM_KEY + 1], phrase)
        else:
            raise ValueError(f"the stem {word!r} is too short: give at least {_STEM_KEY} letters")

    def _find_words(self, padded: str, index: int, found: list[Cue]) -> None:
        by_word, by_stem = self._by_word, self._by_stem
        position = 0
        for word in padded[1:-1].split(" "):
            following = position + len(word) + 1
            if (phrases := by_word.get(word)) is not None:
                for phrase in phrases.get(padded[following + 1 : following + 2]) or phrases[""]:
                    if padded.startswith(phrase.first, position):
                        _add(phrase, padded, index, position, found)
            if (phrases := by_stem.get(word[:_STEM_KEY])) is not None:
                for phrase in phrases.get(word[_STEM_KEY : _STEM_KEY + 1]) or phrases[""]:
                    if padded.startswith(phrase.first, position):
                        _add(phrase, padded, index, position, found)
            position = following

    def _find_anywhere(self, padded: str, index: int, found: list[Cue]) -> None:
        by_start = self._by_start
        for position in range(1, len(padded) - 1):
            if (phrases := by_start.get(padded[position : position + 2])) is not None:
                for phrase in phrases.get(padded[position + 2 : position + 3]) or phrases[""]:
                    if padded.startswith(phrase.first, position):
                        _add(phrase, padded, index, position, found)
            if (phrases := by_start.get(padded[position])) is not None:
                for phrase in phrases[""]:
                    _add(phrase, padded, index, position, found)


def load_finder() -> CueFinder:
    """Build the finder from the lexicons that ship with the package."""
    lexicons = [json.loads(text) for text in lexicon_texts()]
    return CueFinder((lexicon["whole_words"], lexicon["cues"]) for lexicon in lexicons)


def lexicon_texts() -> list[str]:
    """Return the lexicons that ship with the package, in the order of their languages' codes."""
    folder = resources.files("detectors") / "refusal_lexicon"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".json")), key=lambda entry: entry.name)
    return [entry.read_text(encoding="utf-8") for entry in files]


def _put(index: _Index, key: str, after: str, phrase: _Phrase) -> None:
    """Add a phrase that needs ``after`` after its key, ``""`` where any character will do."""
    phrases = index.setdefault(key, {"": []})
    if after:
        phrases.setdefault(after, list(phrases[""])).append(phrase)
        return
    for each in phrases.values():
        each.append(phrase)


def _add(phrase: _Phrase, padded: str, index: int, position: int, found: list[Cue]) -> None:
    if phrase.then is not None:
        start = position + len(phrase.first) - 1
        if padded.find(phrase.then, start, start + _GAP_CHARACTERS + len(phrase.then)) < 0:
            return
    found.append(Cue(phrase.name, phrase.first, index, position))


def _phrase(name: str, text: str, whole_words: bool) -> _Phrase:
    first, _, then = text.partition(_GAP)
    return _Phrase(name, _edges(first, whole_words), _edges(then, whole_words) if then else None)


def _edges(text: str, whole_words: bool) -> str:
    stem = text.endswith("*")
    core = normalize(text.replace("*", ""))
    if not whole_words:
        return core
    return f" {core}" if stem else f" {core} "
