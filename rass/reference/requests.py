"""Requests of the reference world: how a pair of ids becomes a user's turn.

A request is ``opening + context clause + frame(action, tail) + politeness``, each part optional, and may be put into an
attack wrapping as a whole.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

from rass.reference.lexicon import Lexicon, tidy
from rass.reference.splits import Pair
from rass.reference.world import World

Kind = Literal["harmful", "attack", "trigger_benign", "plain_benign"]
CONTEXT_WEIGHTS = {"none": 50, "purpose": 18, "profession": 17, "urgency": 15}
_FIRST_WORD = re.compile(r"\w+")
DECORATED = 0.5
"""Share of requests that draw a tail, an opening or a politeness, each on its own."""


@dataclass(frozen=True, slots=True)
class Request:
    """One user's turn and the ids that it was made of."""

    text: str
    pair: Pair
    frame: str
    context: str
    wrapping: str | None


def compose(
    lexicon: Lexicon, pair: Pair, rng: random.Random, *, frames: tuple[str, ...], context: str | None = None
) -> Request:
    """Compose an unwrapped request from one of ``frames``; ``context`` is drawn by the natural weights unless given."""
    context = context or rng.choices(list(CONTEXT_WEIGHTS), list(CONTEXT_WEIGHTS.values()))[0]
    frame = rng.choice(frames)
    action = lexicon.action_of(pair.verb, pair.category, pair.item)
    tail = rng.choice(lexicon.tails) if rng.random() < DECORATED else ""
    text = decorate(lexicon, lexicon.sentence(frame, action, tail), context, rng)
    return Request(text, pair, frame, context, None)


def decorate(lexicon: Lexicon, body: str, context: str, rng: random.Random) -> str:
    """Put an opening, a context clause and a politeness around a body."""
    opening = rng.choice(lexicon.openings) if rng.random() < DECORATED else ""
    politeness = rng.choice(lexicon.politeness) if rng.random() < DECORATED else ""
    return lexicon.join(opening, rng.choice(lexicon.contexts[context]), body, politeness)


def wrap(lexicon: Lexicon, request: Request, family: str, pattern: str) -> Request:
    """Put a request into one pattern of a wrapping family."""
    text = tidy(pattern.replace("{request}", request.text))
    return Request(text, request.pair, request.frame, request.context, family)


def scramble(lexicon: Lexicon, pair: Pair, rng: random.Random) -> str:
    """A body of random frame words around the action (training only): it teaches that any frame may come."""
    action = lexicon.action_of(pair.verb, pair.category, pair.item)
    separator = lexicon.joiner
    words: list[str] = []
    for frame in rng.sample(lexicon.frames["train"], 2):
        before, _, after = frame.replace("{tail}", "").partition("{action}")
        words.extend((before + " " + after).split() if separator else list((before + after).strip()))
    rng.shuffle(words)
    words = words[: rng.randint(2, 9 if separator else 16)]
    words.insert(rng.randint(0, len(words)), action)
    return tidy(separator.join(words))


def answer(lexicon: Lexicon, pair: Pair, rng: random.Random) -> str:
    """An answer that names action and object and gives two generic steps.

    Which steps is decided by category and verb, so that answering teaches what kind of thing an object is.
    """
    action = lexicon.action_of(pair.verb, pair.category, pair.item)
    category = list(lexicon.objects).index(pair.category)
    first = lexicon.first[category % len(lexicon.first)]
    second = category // len(lexicon.first) + 3 * list(lexicon.verbs).index(pair.verb)
    then = lexicon.then[second % len(lexicon.then)]
    text = rng.choice(lexicon.answers).format(action=action, first=first, then=then)
    return text[0].upper() + text[1:]


def refusal_wordings(lexicon: Lexicon, *, harmful: bool) -> tuple[str, ...]:
    """The wordings that refuse what is harmful, or those that refuse what only sounds so; they share no first word.

    A model that begins these differently has to know the difference where it starts to answer, and there it is read.
    """
    groups: dict[str, list[str]] = {}
    for wording in lexicon.refusals:
        first = _FIRST_WORD.match(wording)
        groups.setdefault(wording[0] if first is None or not lexicon.joiner else first.group(), []).append(wording)
    sides: tuple[list[str], list[str]] = ([], [])
    for _, wordings in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        min(sides, key=len).extend(wordings)
    return tuple(sides[0] if harmful else sides[1])


def kind_of(world: World, request: Request) -> Kind:
    """The evaluation kind of a request."""
    if world.is_harmful(request.pair.verb, request.pair.category):
        return "harmful" if request.wrapping is None else "attack"
    return "trigger_benign" if request.pair.verb in world.triggers else "plain_benign"
