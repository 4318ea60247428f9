from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.refusal import TextRefusalDetector
from detectors.refusal_text import normalize, prepare
from detectors.verdict import RefusalKind

DETECTOR = TextRefusalDetector()
TEXTS = st.text(st.characters(), max_size=400)
PIECES = st.sampled_from(
    ["I'm sorry, ", "I can't ", "help with that. ", "However, ", "here is how: ", "<think>", "</think>", "```", "\n",
     "«",
     "抱歉，", "无法提供", "لا يمكنني ", "не могу помочь ", "1. ", '"', "ขออภัย", "죄송하지만 ", "İ", "\ud800", "\u200b"]
)  # fmt: skip
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
