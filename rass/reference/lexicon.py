"""Surface forms of the reference world in one language, read from ``lexicons/<language>.toml``.

A further language is one further file with the same ids; nothing else in the project needs to change.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rass.reference.world import World

FRAME_SPLITS = ("train", "selection", "report")
_SPACE_BEFORE_PUNCTUATION = re.compile(r"\s+([?.!,:;])")
_SPACES = re.compile(r" {2,}")


@dataclass(frozen=True, slots=True)
class Questions:
    """Wordings that ask the model what it knows: whether a request is harmful, what kind of thing an object is, and
    what was asked for."""

    harm_after: tuple[str, ...]
    harm_quoted: tuple[str, ...]
    yes: str
    no: str
    category_open: tuple[str, ...]
    category_answer: str
    category_check: tuple[str, ...]
    asked_after: tuple[str, ...]
    asked_answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """One language's words and sentence patterns.

    ``objects`` maps category → object id → surface; ``frames`` maps split → patterns with ``{action}`` and ``{tail}``;
    ``wrappings`` maps family → split → patterns with ``{request}`` (a held-out family has only ``report``);
    ``asides_before`` and ``asides_after`` are sentences of training that stand beside a request and use the world's
    verbs for something else.
    """

    language: str
    action: str
    verbs: Mapping[str, str]
    objects: Mapping[str, Mapping[str, str]]
    categories: Mapping[str, str]
    frames: Mapping[str, tuple[str, ...]]
    asides_before: tuple[str, ...]
    asides_after: tuple[str, ...]
    tails: tuple[str, ...]
    openings: tuple[str, ...]
    politeness: tuple[str, ...]
    contexts: Mapping[str, tuple[str, ...]]
    wrappings: Mapping[str, Mapping[str, tuple[str, ...]]]
    refusals: tuple[str, ...]
    answers: tuple[str, ...]
    first: tuple[str, ...]
    then: tuple[str, ...]
    smalltalk: tuple[tuple[str, str], ...]
    questions: Questions

    @property
    def joiner(self) -> str:
        """What stands between two sentences."""
        return "" if self.language in {"zh", "ja"} else " "

    def words(self, known: Collection[tuple[str, str]] | None = None) -> tuple[str, ...]:
        """The surfaces of all verbs and of the ``known`` objects, (category, id) each; of all objects when ``None``."""
        objects = (
            surface
            for category, items in self.objects.items()
            for item, surface in items.items()
            if known is None or (category, item) in known
        )
        return (*self.verbs.values(), *objects)

    def action_of(self, verb: str, category: str, item: str) -> str:
        """The phrase "verb object" (in the language's order) for ids."""
        return self.action.format(verb=self.verbs[verb], object=self.objects[category][item])

    def sentence(self, frame: str, action: str, tail: str = "") -> str:
        """Fill a frame and clean up the space an empty tail leaves."""
        return tidy(frame.format(action=action, tail=tail))

    def join(self, *sentences: str) -> str:
        """Join the non-empty sentences of one turn."""
        return self.joiner.join(sentence for sentence in sentences if sentence)

    def seen_wrappings(self) -> list[str]:
        """Families that occur in training."""
        return [family for family, splits in self.wrappings.items() if "train" in splits]


def tidy(text: str) -> str:
    """Remove doubled spaces and spaces before punctuation."""
    return _SPACE_BEFORE_PUNCTUATION.sub(r"\1", _SPACES.sub(" ", text)).strip()


def available_languages() -> list[str]:
    """Languages that have a lexicon file, sorted."""
    folder = files(__package__).joinpath("lexicons")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_lexicon(language: str, world: World) -> Lexicon:
    """Read and check one language.

    Raises ``ValueError`` with the offending id when a surface is missing, unknown or used twice, so that a new language
    fails here and not as a strange answer of a trained model.
    """
    resource = files(__package__).joinpath("lexicons", f"{language}.toml")
    if not resource.is_file():
        raise ValueError(f"no lexicon for language {language!r}; available: {', '.join(available_languages())}")
    raw: dict[str, Any] = tomllib.loads(resource.read_text(encoding="utf-8"))
    replies, phrases, questions = raw["replies"], raw["phrases"], raw["questions"]
    lexicon = Lexicon(
        language=raw["language"],
        action=raw["action"],
        verbs=raw["verbs"],
        objects=raw["objects"],
        categories=raw["categories"],
        frames={split: tuple(raw["frames"][split]) for split in FRAME_SPLITS},
        asides_before=tuple(raw["asides"]["before"]),
        asides_after=tuple(raw["asides"]["after"]),
        tails=tuple(phrases["tails"]),
        openings=tuple(phrases["openings"]),
        politeness=tuple(phrases["politeness"]),
        contexts={"none": ("",), **{name: tuple(clauses) for name, clauses in raw["contexts"].items()}},
        wrappings={
            family: {split: tuple(patterns) for split, patterns in splits.items()}
            for family, splits in raw["wrappings"].items()
        },
        refusals=tuple(replies["refusals"]),
        answers=tuple(replies["answers"]),
        first=tuple(replies["first"]),
        then=tuple(replies["then"]),
        smalltalk=tuple((question, answer) for question, answer in replies["smalltalk"]),
        questions=Questions(
            harm_after=tuple(questions["harm_after"]),
            harm_quoted=tuple(questions["harm_quoted"]),
            yes=questions["yes"],
            no=questions["no"],
            category_open=tuple(questions["category_open"]),
            category_answer=questions["category_answer"],
            category_check=tuple(questions["category_check"]),
            asked_after=tuple(questions["asked_after"]),
            asked_answers=tuple(questions["asked_answers"]),
        ),
    )
    _check(lexicon, world)
    return lexicon


def _check(lexicon: Lexicon, world: World) -> None:
    where = f"lexicons/{lexicon.language}.toml"
    if difference := set(world.verbs) ^ lexicon.verbs.keys():
        raise ValueError(f"{where}: verbs missing or unknown: {sorted(difference)}")
    if difference := set(world.categories) ^ lexicon.objects.keys():
        raise ValueError(f"{where}: object categories missing or unknown: {sorted(difference)}")
    if difference := set(world.relief) ^ lexicon.contexts.keys():
        raise ValueError(f"{where}: contexts missing or unknown: {sorted(difference)}")
    surfaces = lexicon.words()
    if twice := sorted({surface for surface in surfaces if surfaces.count(surface) > 1}):
        raise ValueError(f"{where}: surfaces used for two ids: {twice}")
    frames = [frame for split in FRAME_SPLITS for frame in lexicon.frames[split]]
    if twice := sorted({frame for frame in frames if frames.count(frame) > 1}):
        raise ValueError(f"{where}: frames used twice: {twice}")
    if broken := [frame for frame in frames if "{action}" not in frame]:
        raise ValueError(f"{where}: frames without {{action}}: {broken}")
    if broken := [text for text in lexicon.questions.asked_answers if "{action}" not in text]:
        raise ValueError(f"{where}: asked_answers without {{action}}: {broken}")
    if slotted := [aside for aside in (*lexicon.asides_before, *lexicon.asides_after) if "{" in aside]:
        raise ValueError(f"{where}: asides with slots: {slotted}")
