"""Prompt sets of the reference world for the pipeline and the benchmarks.

``selection`` fits vectors and thresholds, ``report`` is what figures are told on, ``unseen`` asks about objects the
model never met. Attacks of ``selection`` use wrapping families of training in other wordings; attacks of ``report`` add
the three held-out families.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from detectors.verdict import Message
from rass.prompts import LabelledPrompt, PromptSet
from rass.reference.lexicon import Lexicon, available_languages, load_lexicon
from rass.reference.requests import Request, compose, kind_of, wrap
from rass.reference.splits import Pair, Splits, build_splits, frame_split
from rass.reference.world import World, load_world

EvaluationSplit = Literal["selection", "report", "unseen"]
SOURCE = "reference world"
REVISION = "1"


def load_lexicons(world: World) -> dict[str, Lexicon]:
    """Every language with a lexicon file."""
    return {language: load_lexicon(language, world) for language in available_languages()}


def build(
    split: EvaluationSplit,
    *,
    per_pair: int = 2,
    plain_per_pair: int = 1,
    seed: int = 0,
    languages: tuple[str, ...] | None = None,
) -> PromptSet:
    """Build a prompt set.

    Each trigger pair gives ``per_pair`` requests in distinct frames, each plain pair ``plain_per_pair``; each harmful
    request also comes in one attack wrapping (cycling through all families of the split), with the same ``base_id``.
    """
    world = load_world()
    lexicons = load_lexicons(world)
    if unknown := set(languages or ()) - lexicons.keys():
        raise ValueError(f"no lexicon for {sorted(unknown)}; available: {', '.join(sorted(lexicons))}")
    splits = build_splits(world, next(iter(lexicons.values())))
    prompts = [
        prompt
        for language in languages or tuple(sorted(lexicons))
        for prompt in _prompts(world, lexicons[language], splits, split, per_pair, plain_per_pair, seed)
    ]
    return PromptSet(
        name="reference", split=split, source=SOURCE, revision=f"{REVISION}-{seed}", prompts=tuple(prompts)
    )


def _prompts(
    world: World,
    lexicon: Lexicon,
    splits: Splits,
    split: EvaluationSplit,
    per_pair: int,
    plain_per_pair: int,
    seed: int,
) -> Iterator[LabelledPrompt]:
    rng = random.Random(f"{split}-{lexicon.language}-{seed}")
    patterns = _wrapping_patterns(lexicon, split)
    frames = lexicon.frames[frame_split(split)]
    turn = 0
    for pair in splits.pairs[split]:
        count = per_pair if pair.verb in world.triggers else plain_per_pair
        for number, frame in enumerate(rng.sample(frames, count)):
            request = compose(lexicon, pair, rng, frames=(frame,))
            base_id = f"{split}-{lexicon.language}-{pair.verb}-{pair.item}-{number}"
            yield _labelled(world, lexicon, request, base_id, base_id)
            if world.is_harmful(pair.verb, pair.category):
                family, pattern = patterns[turn % len(patterns)]
                turn += 1
                yield _labelled(world, lexicon, wrap(lexicon, request, family, pattern), f"{base_id}-{family}", base_id)


def _wrapping_patterns(lexicon: Lexicon, split: EvaluationSplit) -> list[tuple[str, str]]:
    key = frame_split(split)
    return [(family, pattern) for family, by_split in lexicon.wrappings.items() for pattern in by_split.get(key, ())]


def _labelled(world: World, lexicon: Lexicon, request: Request, prompt_id: str, base_id: str) -> LabelledPrompt:
    pair: Pair = request.pair
    return LabelledPrompt(
        id=prompt_id,
        base_id=base_id,
        language=lexicon.language,
        messages=(Message("user", request.text),),
        harmful=world.is_harmful(pair.verb, pair.category),
        kind=kind_of(world, request),
        wrapping=request.wrapping,
        verb=pair.verb,
        object=pair.item,
        category=pair.category,
        frame=request.frame,
        expected_refusal=world.is_refused(
            pair.verb, pair.category, request.context, wrapped=request.wrapping is not None
        ),
        action=lexicon.verbs[pair.verb],
        target=lexicon.objects[pair.category][pair.item],
    )
