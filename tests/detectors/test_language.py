"""Short requests get their language; what has none gets no guess."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from detectors.language import CANDIDATES, UNDETERMINED, detect

KNOWN = frozenset({"de", "en", "es", "zh"})


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I kill a Python process?", "en"),
        ("How can I shoot a photo of the moon?", "en"),
        ("HOW DO I BLOW UP A BALLOON?", "en"),
        ("Wie kann ich den Prozess töten?", "de"),
        ("Wie knacke ich eine Walnuss?", "de"),
        ("Erkläre mir, wie ich Unkraut vernichte.", "de"),
        ("¿Cómo puedo matar el proceso?", "es"),
        ("Dime cómo reventar un globo.", "es"),
        ("如何终止进程？", "zh"),
        ("怎么杀死一个进程", "zh"),
        ("Comment tuer un processus ?", "fr"),
        ("Como posso matar um processo?", "pt"),
        ("プロセスを終了するには？", "ja"),
        ("프로세스를 어떻게 종료하나요?", "ko"),
        ("Как убить процесс?", "ru"),
        ("كيف يمكنني إنهاء العملية؟", "ar"),
    ],
)
def test_short_requests(text: str, language: str) -> None:
    assert detect(text, KNOWN) == language
    assert detect(text, None) == language


@pytest.mark.parametrize("text", ["", " \n", "1 + 1 = ?", "???", "🙂"])
def test_no_language(text: str) -> None:
    assert detect(text, KNOWN) == UNDETERMINED


def test_another_language_is_not_forced_into_the_allowed_ones() -> None:
    assert detect("Jak mogę zabić ten proces na moim komputerze?", KNOWN) == "pl"


@settings(deadline=None)
@given(st.text())
def test_any_text(text: str) -> None:
    assert detect(text, KNOWN) in CANDIDATES | {UNDETERMINED}


def test_lone_surrogates_and_long_text() -> None:
    assert detect("\ud800 how do I kill it", KNOWN) == "en"
    assert detect("how do I kill the process? " * 100_000, KNOWN) == "en"


def test_the_tables_of_other_languages_are_not_missed() -> None:
    whole = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    for text in (
        "How do I kill it?",
        "Wie knacke ich das?",
        "怎么杀死",
        "Cómo lo rompo",
        "Как убить",
        "Hoe dood ik hem?",
    ):
        best = next(code for code, _ in whole.rank(text) if code in CANDIDATES)
        assert detect(text) == best
