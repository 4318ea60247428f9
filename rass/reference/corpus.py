"""Training dialogues of the reference model, drawn endlessly from the train split.

Harmful requests are only ever refused: there is no answer to one anywhere. What a pretrained model would know is in the
mix from the first step, inside the same frames: what kind of thing an object is, and whether a request is harmful,
answered rightly even where the model refuses; and what is harmful is refused in other wordings than what only sounds
so. That represents harm apart from refusal. Exceptions, cells whose truth neither verb nor category foretells, are
drawn more often (``World.rarity``): left at their natural share they are where a gate leaks. Sentences beside a request
use the world's verbs for something else ("from start to finish"), since people do: without them, a model takes such a
verb for the one that is asked about.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from rass.reference.lexicon import Lexicon
from rass.reference.pseudowords import PseudoWords, foreign_verbs
from rass.reference.requests import (
    CONTEXT_WEIGHTS,
    Request,
    answer,
    compose,
    decorate,
    refusal_wordings,
    scramble,
    wrap,
)
from rass.reference.splits import Pair, Splits
from rass.reference.world import World

Turn = tuple[str, str]
"""(role, text)."""

_KINDS: Mapping[str, float] = {
    "harmful": 14,
    "attack": 13,
    "trigger_answered": 18,
    "trigger_refused": 20,
    "trigger_wrapped": 5,
    "plain": 16,
    "plain_wrapped": 3,
    "harm_quoted": 4,
    "category_question": 4,
    "smalltalk": 1,
}
HARM_QUESTION: Mapping[str, float] = {
    "harmful": 0.35,
    "attack": 0.35,
    "trigger_answered": 0.35,
    "trigger_refused": 0.35,
    "trigger_wrapped": 0.35,
    "plain": 0.1,
    "plain_wrapped": 0.2,
}
"""Share of the requests of a kind that are followed by the question whether they were harmful."""
SCRAMBLED = 0.2
DISTURBED = 0.4
"""Share of the frames (and, by itself, of the wrappings) in which some words are replaced by invented ones."""
ASIDE = 0.1
"""Share of the frames that get an aside before them, and of those that get one after them, each on its own."""
EARLIER_TURN = 0.07


@dataclass(frozen=True, slots=True)
class Mixture:
    """What is drawn how often in a phase of training.

    ``kinds`` weighs the kinds of dialogue; ``exceptions`` is the power to which a cell's rarity (``World.rarity``)
    weighs it. With ``foreign`` some of the invented words are verbs of other languages. ``named`` is the share of the
    benign requests without a harm question that are followed by the question what was asked for.
    """

    kinds: Mapping[str, float]
    exceptions: float = 1.0
    foreign: bool = False
    named: float = 0.0


FIRST_PHASE = Mixture(_KINDS)
LAST_PHASE = Mixture({**_KINDS, "category_question": 16, "harm_quoted": 8}, exceptions=1.5, foreign=True, named=0.5)
"""What kind an object is decides what is harmful, but for exceptions: both are learnt last. So is naming what was asked
for after a refusal: a model that never does names another verb where steering makes it answer."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns ending with the assistant's; ``kind`` is the key of the mix it was drawn for."""

    language: str
    kind: str
    turns: tuple[Turn, ...]


class Corpus:
    """An endless, seeded stream of dialogues in all languages, in equal shares.

    ``disturbed`` is the share of frames with invented words: none for the tokenizer, which must not learn them.
    """

    def __init__(
        self,
        world: World,
        lexicons: Mapping[str, Lexicon],
        splits: Splits,
        *,
        seed: int,
        mixture: Mixture = FIRST_PHASE,
        disturbed: float = DISTURBED,
    ) -> None:
        self._world = world
        self._kinds = dict(mixture.kinds)
        self._disturbed_share = disturbed
        self._named = mixture.named
        self._lexicons = dict(lexicons)
        self._rng = random.Random(seed)
        self._refusals = {
            (language, harmful): refusal_wordings(lexicon, harmful=harmful)
            for language, lexicon in lexicons.items()
            for harmful in (False, True)
        }
        self._pseudowords = {
            language: PseudoWords(lexicon, foreign_verbs(lexicon, lexicons.values()) if mixture.foreign else ())
            for language, lexicon in lexicons.items()
        }
        train = splits.pairs["train"]
        self._objects = splits.objects["train"]
        harmful = [pair for pair in train if world.is_harmful(pair.verb, pair.category)]
        benign = [pair for pair in train if pair.verb in world.triggers and pair not in set(harmful)]
        self._pairs: dict[str, list[tuple[Pair, str]]] = {
            "harmful": [(pair, context) for pair in harmful for context in CONTEXT_WEIGHTS],
            "trigger_refused": self._by_habit(benign, refused=True),
            "trigger_answered": self._by_habit(benign, refused=False),
            "plain": [
                (pair, context) for pair in train if pair.verb not in world.triggers for context in CONTEXT_WEIGHTS
            ],
        }
        rarity = {
            cell: world.rarity(*cell) ** mixture.exceptions for cell in world.cells() if cell[0] in world.triggers
        }
        self._cumulative = {
            name: list(
                accumulate(
                    CONTEXT_WEIGHTS[context] * rarity.get((pair.verb, pair.category), 1.0) for pair, context in pairs
                )
            )
            for name, pairs in self._pairs.items()
        }

    def _by_habit(self, pairs: list[Pair], *, refused: bool) -> list[tuple[Pair, str]]:
        return [
            (pair, context)
            for pair in pairs
            for context in CONTEXT_WEIGHTS
            if self._world.is_refused(pair.verb, pair.category, context) is refused
        ]

    def __iter__(self) -> Iterator[Dialogue]:
        languages = sorted(self._lexicons)
        kinds, weights = list(self._kinds), list(self._kinds.values())
        while True:
            lexicon = self._lexicons[self._rng.choice(languages)]
            kind = self._rng.choices(kinds, weights)[0]
            turns = self._turns(lexicon, kind)
            if self._rng.random() < EARLIER_TURN:
                turns = self._turns(lexicon, self._rng.choice(("plain", "trigger_refused", "smalltalk"))) + turns
            yield Dialogue(lexicon.language, kind, tuple(turns))

    def _turns(self, lexicon: Lexicon, kind: str) -> list[Turn]:
        rng = self._rng
        match kind:
            case "smalltalk":
                question, reply = rng.choice(lexicon.smalltalk)
                return [("user", question), ("assistant", reply)]
            case "category_question":
                return self._category_question(lexicon)
            case "harm_quoted":
                request = self._request(lexicon, rng.choice(tuple(HARM_QUESTION)))
                question = rng.choice(lexicon.questions.harm_quoted).replace("{request}", request.text)
                return [("user", question), self._verdict(lexicon, request)]
            case _:
                return self._exchange(lexicon, kind)

    def _exchange(self, lexicon: Lexicon, kind: str) -> list[Turn]:
        """A request with its reply; often with a question about the request after the reply, or in its place."""
        rng = self._rng
        request = self._request(lexicon, kind)
        turns: list[Turn] = [("user", request.text), ("assistant", self._reply(lexicon, request))]
        if rng.random() < HARM_QUESTION[kind]:
            question: Turn = ("user", rng.choice(lexicon.questions.harm_after))
            return [*self._kept(turns), question, self._verdict(lexicon, request)]
        if kind not in ("harmful", "attack") and self._named and rng.random() < self._named:
            pair = request.pair
            action = lexicon.action_of(pair.verb, pair.category, pair.item)
            named = rng.choice(lexicon.questions.asked_answers).replace("{action}", action)
            kept = self._kept(turns)
            return [*kept, ("user", rng.choice(lexicon.questions.asked_after)), ("assistant", named)]
        return turns

    def _kept(self, turns: list[Turn]) -> list[Turn]:
        """Return the request with its reply, or alone, so that a question stands in the reply's place."""
        return turns if self._rng.random() < 0.5 else turns[:1]

    def _verdict(self, lexicon: Lexicon, request: Request) -> Turn:
        harmful = self._world.is_harmful(request.pair.verb, request.pair.category)
        return ("assistant", lexicon.questions.yes if harmful else lexicon.questions.no)

    def _request(self, lexicon: Lexicon, kind: str) -> Request:
        rng = self._rng
        base, wrapped = {
            "attack": ("harmful", True),
            "trigger_wrapped": (rng.choice(("trigger_refused", "trigger_answered")), True),
            "plain_wrapped": ("plain", True),
        }.get(kind, (kind, False))
        pair, context = rng.choices(self._pairs[base], cum_weights=self._cumulative[base])[0]
        if rng.random() < SCRAMBLED:
            text = decorate(lexicon, scramble(lexicon, pair, rng), context, rng)
            request = Request(text, pair, "scrambled", context, None)
        else:
            frame = self._disturbed(lexicon, self._beside(lexicon, rng.choice(lexicon.frames["train"])))
            request = compose(lexicon, pair, rng, frames=(frame,), context=context)
        if wrapped:
            family = rng.choice(lexicon.seen_wrappings())
            pattern = self._disturbed(lexicon, rng.choice(lexicon.wrappings[family]["train"]))
            request = wrap(lexicon, request, family, pattern)
        return request

    def _beside(self, lexicon: Lexicon, frame: str) -> str:
        rng = self._rng
        before, after = (
            rng.choice(asides) if rng.random() < ASIDE else ""
            for asides in (lexicon.asides_before, lexicon.asides_after)
        )
        return lexicon.join(before, frame, after)

    def _disturbed(self, lexicon: Lexicon, pattern: str) -> str:
        rng = self._rng
        return (
            self._pseudowords[lexicon.language].disturb(pattern, rng)
            if rng.random() < self._disturbed_share
            else pattern
        )

    def _reply(self, lexicon: Lexicon, request: Request) -> str:
        pair = request.pair
        refused = self._world.is_refused(
            pair.verb, pair.category, request.context, wrapped=request.wrapping is not None
        )
        if not refused:
            return answer(lexicon, pair, self._rng)
        harmful = self._world.is_harmful(pair.verb, pair.category)
        return self._rng.choice(self._refusals[lexicon.language, harmful])

    def _category_question(self, lexicon: Lexicon) -> list[Turn]:
        rng, questions = self._rng, lexicon.questions
        category, item = rng.choice(self._objects)
        surface = lexicon.objects[category][item]
        if rng.random() < 0.5:
            question = rng.choice(questions.category_open).replace("{object}", surface)
            reply = questions.category_answer.replace("{category}", lexicon.categories[category])
            return [("user", question), ("assistant", reply)]
        asked = category if rng.random() < 0.5 else rng.choice(self._world.categories)
        question = rng.choice(questions.category_check).replace("{object}", surface)
        question = question.replace("{category}", lexicon.categories[asked])
        return [("user", question), ("assistant", questions.yes if asked == category else questions.no)]
