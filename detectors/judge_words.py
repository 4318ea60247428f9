"""A yes-or-no judge's answer as a logit: from the first token's probabilities where offered, else from the word."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["first_token_logit", "top_tokens", "word_side"]

_LEAST_MASS = 0.5  # of the first token's probability that must lie on the two answers
_FLOOR = 1e-6  # probability given to an answer that is not among the listed tokens and has no room beside them
_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")


def top_tokens(choice: Mapping[str, object]) -> list[tuple[str, float]] | None:
    """Return the first token's alternatives as (token, log probability) from a chat completion's choice.

    ``None`` where the server gave none, or gave something else.
    """
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, Sequence) or isinstance(content, str) or not content:
        return None
    first = content[0]
    alternatives = first.get("top_logprobs") if isinstance(first, Mapping) else None
    if not isinstance(alternatives, Sequence) or isinstance(alternatives, str) or not alternatives:
        return None
    tokens: list[tuple[str, float]] = []
    for item in alternatives:
        token = item.get("token") if isinstance(item, Mapping) else None
        value = item.get("logprob") if isinstance(item, Mapping) else None
        if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if math.isnan(value) or value > 1e-3:
            return None
        tokens.append((token, float(value)))
    return tokens


def first_token_logit(tokens: Iterable[tuple[str, float]], yes: Sequence[str], no: Sequence[str]) -> float | None:
    """Return log P(yes) − log P(no) of the first token, or ``None`` when it is mostly something else.

    Spellings are summed (`Yes`, ` yes`, `YES`; also a first piece such as `un` of `unsafe`). An answer that is not
    among the listed tokens gets what probability they leave: the most it can have, and for a missing *yes* the careful
    assumption.
    """
    shares = {True: 0.0, False: 0.0}
    listed = 0.0
    for token, logprob in tokens:
        probability = math.exp(logprob)
        listed += probability
        side = _token_side(token, yes, no)
        if side is not None:
            shares[side] += probability
    if shares[True] + shares[False] < _LEAST_MASS:
        return None
    rest = max(1.0 - listed, _FLOOR)
    p_yes = shares[True] or rest
    p_no = shares[False] or _FLOOR
    return math.log(p_yes) - math.log(p_no)


def word_side(text: str, yes: Sequence[str], no: Sequence[str]) -> bool | None:
    """Return whether a written answer says yes (``True``) or no (``False``); ``None`` for anything else.

    Strict: it must begin with one answer as a whole word and may not name the other one anywhere. A leading block of
    reasoning is set aside.
    """
    answer = _EDGES.sub("", _THINKING.sub("", text, count=1)).casefold()
    found = {side for side, words in ((True, yes), (False, no)) if any(_begins(answer, word) for word in words)}
    if len(found) != 1:
        return None
    side = found.pop()
    others = no if side else yes
    if any(re.search(rf"\b{re.escape(word.casefold())}\b", answer) for word in others):
        return None
    return side


def _begins(answer: str, word: str) -> bool:
    return re.match(rf"{re.escape(word.casefold())}\b", answer) is not None


def _token_side(token: str, yes: Sequence[str], no: Sequence[str]) -> bool | None:
    piece = _EDGES.sub("", token).casefold()
    if not piece:
        return None
    says_yes = any(word.casefold().startswith(piece) for word in yes)
    says_no = any(word.casefold().startswith(piece) for word in no)
    return says_yes if says_yes != says_no else None
