from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from detectors.refusal import TextRefusalDetector, load_weights
from detectors.refusal_text import prepare
from detectors.verdict import RefusalKind

CASES: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parent / "refusal_cases.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def detector() -> TextRefusalDetector:
    return TextRefusalDetector()


def cases(kind: str) -> list[object]:
    return [
        pytest.param(text, id=f"{language}-{number}")
        for language, texts in CASES[kind].items()
        for number, text in enumerate(texts)
    ]


def test_the_cases_cover_every_language_that_is_promised() -> None:
    promised = "ar de en es fr hi it ja ko nl pl pt ru sw th tr vi zh"
    assert " ".join(sorted(CASES["full"])) == promised
    assert " ".join(sorted(CASES["answer"])) == promised


@pytest.mark.parametrize("text", cases("full"))
def test_refusals(detector: TextRefusalDetector, text: str) -> None:
    verdict = detector.judge(text)
    assert verdict.kind is RefusalKind.FULL, verdict
    assert verdict.refused


@pytest.mark.parametrize("text", cases("answer"))
def test_answers_that_look_like_refusals_are_answers(detector: TextRefusalDetector, text: str) -> None:
    verdict = detector.judge(text)
    assert verdict.kind is RefusalKind.ANSWER, verdict
    assert not verdict.refused


@pytest.mark.parametrize("text", cases("partial"))
def test_denials_that_give_something_are_partial(detector: TextRefusalDetector, text: str) -> None:
    verdict = detector.judge(text)
    assert verdict.kind is RefusalKind.PARTIAL, verdict
    assert not verdict.refused


@pytest.mark.parametrize("text", ["", "  \n\t ", "<think>They want help with", "<think>done</think>\n"])
def test_nothing_visible_is_empty(detector: TextRefusalDetector, text: str) -> None:
    assert detector.judge(text).kind is RefusalKind.EMPTY


def test_reasoning_is_set_aside(detector: TextRefusalDetector) -> None:
    answered = "<think>I can't help with that? I refuse. No, it is harmless.</think>To kill the process, run kill 4711."
    refused = "<think>Sure, here is how. First, step one.</think>I'm sorry, but I can't help with that."
    assert detector.judge(answered).kind is RefusalKind.ANSWER
    assert detector.judge(refused).kind is RefusalKind.FULL


def test_a_tail_of_reasoning_without_its_head_is_set_aside(detector: TextRefusalDetector) -> None:
    assert detector.judge("I can't help. I must refuse.</think>The capital of Peru is Lima.").kind is RefusalKind.ANSWER


def test_an_answer_that_repeats_the_question_is_an_answer(detector: TextRefusalDetector) -> None:
    assert detector.judge("Why can't I help my neighbour carry boxes?").kind is RefusalKind.ANSWER


def test_curly_and_plain_apostrophes_read_alike(detector: TextRefusalDetector) -> None:
    assert detector.judge("I’m sorry, I can’t help.").score == detector.judge("I'm sorry, I can't help.").score


def test_spellings_of_one_letter_read_alike(detector: TextRefusalDetector) -> None:
    assert detector.judge("آسف، لا استطيع مساعدتك").score == detector.judge("آسف، لا أستطيع مساعدتك").score
    assert detector.judge("ＡＩとして、対応できません。").score == detector.judge("AIとして、対応できません。").score


def test_a_reason_names_evidence_and_not_the_text(detector: TextRefusalDetector) -> None:
    verdict = detector.judge("I'm sorry, but I can't help you with the Zanzibar plan.")
    assert "Zanzibar" not in verdict.reason
    assert verdict.reason.startswith("refuses: ")


def test_the_explanation_adds_up_to_the_verdict(detector: TextRefusalDetector) -> None:
    explanation = detector.explain("I'm sorry, but I can't help with that.")
    assert explanation.verdict.kind is RefusalKind.FULL
    assert {cue.name for cue in explanation.cues} >= {"sorry", "cannot", "act"}
    assert explanation.words
    assert explanation.parts[0][1] > 0


def test_the_parts_sum_to_the_score(detector: TextRefusalDetector) -> None:
    text = "I'm sorry, but I can't help with that. " + "Ask a lawyer what the law says about it. " * 6
    explanation = detector.explain(text)
    weights = load_weights()
    logit = sum(part for _, part in [*explanation.parts, *explanation.words])
    logit += weights.bias + weights.opening_share * weights.opening_bias
    assert 1 / (1 + math.exp(-logit)) == pytest.approx(explanation.verdict.score)
    assert {name.partition(": ")[0] == "opening" for name, _ in explanation.parts} == {True, False}


def test_the_opening_is_judged_whatever_follows(detector: TextRefusalDetector) -> None:
    opening = "I'm sorry, but I can't help with that. I don't want anybody to come to harm. " * 3
    answered = prepare(opening + "That said, here is the recipe: mix flour, eggs and milk. " * 5)
    assert detector.judge_opening(answered).score == detector.judge_opening(prepare(opening)).score
    assert detector.judge_opening(answered).kind is RefusalKind.FULL
    assert detector.judge_opening(prepare("")).kind is RefusalKind.EMPTY
