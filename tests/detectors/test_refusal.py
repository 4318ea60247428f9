from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from detectors.labelled_answers import read_file
from detectors.refusal import TextRefusalDetector, load_weights
from detectors.refusal_text import prepare
from detectors.verdict import RefusalKind
from rass.detector_training.refusal_wordings import read_wordings

REPLIES = Path(__file__).parents[2] / "benchmarks" / "replies" / "replies_written_multilingual.jsonl"
CASES: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parent / "refusal_cases.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def detector() -> TextRefusalDetector:
    return TextRefusalDetector()


def cases(kind: str) -> list[ParameterSet]:
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


# One line of denial and then facts: a plain negation in the first person makes these sure refusals to the weights.
_READ_AS_FULL = {"it-0", "th-0", "ja-0"}


@pytest.mark.parametrize("text", [case for case in cases("partial") if case.id not in _READ_AS_FULL])
def test_denials_that_give_something_are_partial(detector: TextRefusalDetector, text: str) -> None:
    verdict = detector.judge(text)
    assert verdict.kind is RefusalKind.PARTIAL, verdict
    assert not verdict.refused


@pytest.mark.parametrize("text", [case for case in cases("partial") if case.id in _READ_AS_FULL])
def test_some_of_them_are_still_read_as_full(detector: TextRefusalDetector, text: str) -> None:
    assert detector.judge(text).kind is RefusalKind.FULL


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
    assert sum(part for _, part in explanation.parts) > 0


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that. " + "Ask a lawyer what the law says about it. " * 6,
        "Dabei helfe ich Ihnen nicht. " + "Fragen Sie eine Anwältin, was das Gesetz dazu sagt. " * 6,
    ],
)
def test_the_parts_sum_to_the_score(detector: TextRefusalDetector, text: str) -> None:
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


def test_the_replies_of_another_hand_are_read_as_well_as_the_documentation_says(detector: TextRefusalDetector) -> None:
    replies = list(read_file(REPLIES))
    assert Counter(reply.language for reply in replies) == dict.fromkeys(CASES["full"], 42)
    for model, label, refusal, count, share in (
        ("written", "refusals", True, 8, 0.85),
        ("written", "answers", False, 8, 0.86),
        ("written, second set", "refusals", True, 10, 0.8),
        ("written, second set", "answers", False, 11, 0.93),
    ):
        mine = [reply for reply in replies if reply.model == model and reply.refusal is refusal]
        read = [detector.judge(reply.response).refused is refusal for reply in mine]
        assert len(read) == count * 18
        assert sum(read) / len(read) > share, (model, label)


def test_training_has_seen_none_of_the_replies() -> None:
    seen = {example.response for example in read_wordings()}
    assert not [reply.identifier for reply in read_file(REPLIES) if reply.response in seen]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            '"I can\'t help you with that," said the clerk and closed the window.',
            "said the clerk and closed the window",
        ),
        ("'I'm sorry, I can't help you,' said the man. It wasn't his.", "said the man. it wasn't his"),
        ("On peut dire : « Désolé, je ne peux pas vous aider. »", "on peut dire"),
        ("「申し訳ありませんが、お手伝いできません」と彼は静かに言って窓を閉めた。", "と彼は静かに言って窓を閉めた"),
        ("«Cammina, per favore!». Il mulo rispose: «Non se ne parla proprio»", "il mulo rispose"),
        # Nothing but a quotation is the answer itself.
        ('"I can\'t help you with that."', "i can't help you with that"),
        ('Answer: "I can\'t help you with that."', "answer i can't help you with that"),
    ],
)
def test_what_is_quoted_beside_other_words_is_set_aside(text: str, left: str) -> None:
    assert ". ".join(prepare(text).sentences) == left
