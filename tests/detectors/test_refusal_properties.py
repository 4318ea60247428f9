from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.refusal import TextRefusalDetector, load_weights
from detectors.refusal_cues import CueFinder
from detectors.refusal_text import normalize, prepare
from detectors.refusal_words import Wording
from detectors.verdict import RefusalKind

DETECTOR = TextRefusalDetector()
WORDING = Wording(load_weights().words, load_weights().english_bias)
TEXTS = st.text(st.characters(), max_size=400)
PIECES = st.sampled_from(
    ["I'm sorry, ", "I can't ", "help with that. ", "However, ", "here is how: ", "<think>", "</think>", "```", "\n",
     "«",
     "抱歉，", "无法提供", "لا يمكنني ", "не могу помочь ", "1. ", '"', "ขออภัย", "죄송하지만 ", "İ", "\ud800", "\u200b"]
)  # fmt: skip
# Without what reaches over the end of a line: code and quotations.
ASCII = st.text("abI'm sorry. !?:)*]-1\t\n", max_size=300)
SAID = st.sampled_from(["i", "can't", "the", "to", "help", "you", "1:to", "^to", "and ", ". "])
ENGLISH = st.lists(SAID, max_size=40).map(" ".join)
WORDS = ("can", "cannot", "cant", "help", "helping", "i", "in")
ANSWERS = st.one_of(TEXTS, st.lists(PIECES, max_size=30).map("".join))


@given(ANSWERS)
def test_any_text_gets_a_verdict(text: str) -> None:
    verdict = DETECTOR.judge(text)
    assert 0.0 <= verdict.score <= 1.0
    assert (verdict.kind is RefusalKind.EMPTY) == (prepare(text).characters == 0)


@given(ANSWERS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once


@given(ANSWERS, st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=200)
def test_a_stream_says_the_same_wherever_it_is_split(text: str, cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    stream, single = DETECTOR.stream(), DETECTOR.stream()
    for start, end in pairwise(edges):
        stream.feed(text[start:end])
    for character in text:
        single.feed(character)
    assert stream.finish() == single.finish()


@given(ANSWERS)
def test_a_decided_verdict_stays(text: str) -> None:
    stream = DETECTOR.stream()
    decided = None
    for character in text:
        verdict = stream.feed(character)
        assert decided is None or verdict == decided
        decided = verdict
    assert decided is None or stream.finish() == decided


@given(ASCII)
def test_ascii_is_read_as_any_other_text(text: str) -> None:
    assert normalize(f"{text} é") == f"{normalize(text)} é".strip()
    assert prepare(f"{text}\né").sentences == (*prepare(f"{text}\n").sentences, "é")[:8]


@given(st.one_of(ANSWERS, ENGLISH))
def test_what_is_heard_is_the_sum_of_the_words_parts(text: str) -> None:
    answer = prepare(text)
    assert WORDING.heard(answer) == pytest.approx(sum(part for _, part in WORDING.parts(answer)), rel=0, abs=1e-12)


@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), max_size=8, unique=True),
    st.sets(st.sampled_from(["can", "help", "cannot", "hel"])),
    st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
)
def test_every_phrase_is_found_wherever_it_begins(phrases: list[str], stems: set[str], sentence: str) -> None:
    listed = [*phrases, *(f"{stem}*" for stem in sorted(stems))]
    found = CueFinder([(True, {text: [text] for text in listed})]).find([sentence])
    padded = f" {sentence} "
    expected = [
        (text, position)
        for position, character in enumerate(padded)
        for text in listed
        if character == " "
        and padded.startswith(f" {text.removesuffix('*')}" if text.endswith("*") else f" {text} ", position)
    ]
    assert sorted((cue.name, cue.position) for cue in found) == sorted(expected)
