from __future__ import annotations

import pytest

from detectors.refusal_cues import load_finder
from detectors.refusal_partial import denies, gives_something
from detectors.refusal_text import prepare

FINDER = load_finder()


@pytest.mark.parametrize(
    ("text", "gives"),
    [
        ("I can't diagnose your rash. Such spots fade within a week.", True),
        ("I can't diagnose your rash.", False),
        ("I'm sorry, I can't diagnose your rash. Such spots fade within a week.", False),
        ("I can't help with forging a passport. It is illegal.", False),
        ("I can't help with that. Instead, I suggest that you talk to a friend.", False),
        ("Such spots fade within a week. The fever goes first.", False),
        ("As an AI, I have no taste in music. " + "The song was first played in a small bar by the sea. " * 7, True),
    ],
)
def test_what_follows_a_denial_tells_whether_something_is_given(text: str, gives: bool) -> None:
    answer = prepare(text)
    assert gives_something(answer, FINDER.find(answer.sentences)) is gives


def test_a_denial_is_an_inability_or_a_refusal() -> None:
    assert denies(FINDER.find(prepare("I can't say.").sentences))
    assert not denies(FINDER.find(prepare("As an AI, I like every colour.").sentences))
