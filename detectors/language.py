"""The language of a request, for thresholds, vectors and labels.

Wraps py3langid (BSD-3-Clause; its model ships inside the wheel, nothing is downloaded). Among its 139 languages are
many close relatives of large ones (Aragonese, Galician, Wu …) that win short sentences by a hair, so the candidates are
the languages below, and of two nearly equal ones the language that the caller knows something about is taken.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

UNDETERMINED = "und"
"""Returned for text without any sign of a language (empty, numbers, symbols); ISO 639's own code for it."""

_CANDIDATE_CODES = """
af ar az be bg bn ca cs da de el en es et eu fa fi fr gu he hi hr hu hy id it ja ka kk kn ko lt
lv mk ml mr ms my nb ne nl pa pl pt ro ru sk sl sq sr sv sw ta te th tl tr uk ur uz vi zh
"""
CANDIDATES = frozenset(_CANDIDATE_CODES.split())
"""ISO 639-1 codes that can be returned, besides ``UNDETERMINED``."""

_NEARLY_EQUAL = 0.25  # an allowed language wins when it is at least this fraction as probable as the best one
_LONGEST = 2_000  # characters; more text changes no answer and costs time


class _Identifier(Protocol):
    """The part of py3langid's ``LanguageIdentifier`` that is used; ``rank`` changes nothing: threads may share it."""

    def rank(self, text: str) -> list[tuple[str, float]]:
        """Return every language with its probability, best first."""
        ...


def detect(text: str, allowed: frozenset[str] | None = None) -> str:
    """Return the ISO 639-1 code of ``text``'s language, or ``UNDETERMINED``; never raises on any string.

    ``allowed`` names the languages that the caller can serve. It breaks near ties in their favour, and only those: a
    Russian request is ``ru`` although the bundle knows only ``en`` and ``de``, because treating it as one of these
    would apply thresholds that nobody measured for it.

    The first call loads the model (about half a second); ``load`` does that at a time of the caller's choosing.
    """
    known = CANDIDATES if allowed is None else CANDIDATES & allowed
    if not any(character.isalpha() for character in text):
        return UNDETERMINED
    identifier = _identifier()
    ranking = identifier.rank(text[:_LONGEST])
    if ranking == identifier.rank(""):  # no feature matched: only the order of the model's own list is left
        return UNDETERMINED
    candidates = [(code, share) for code, share in ranking if code in CANDIDATES]
    best, best_share = candidates[0]
    for code, share in candidates:
        if share < _NEARLY_EQUAL * best_share:
            break
        if code in known:
            return code
    return best


def load() -> None:
    """Load the model now, so that the first request does not wait for it."""
    _identifier()


@cache
def _identifier() -> _Identifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # imported late: --help must not wait for it

    whole = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    whole.set_languages(CANDIDATES.intersection(whole.labels))
    # One of its own for the candidates: the other one keeps the tables of all languages, 17 MB more.
    identifier: _Identifier = LanguageIdentifier(
        whole.nb_ptc,
        whole.nb_pc,
        whole.nb_classes,
        whole.tk_nextmove,
        whole.tk_output,
        norm_probs=True,
        tk_row=whole.tk_row,
    )
    return identifier
