"""The pairs are what they claim to be: many, distinct, twins, and requests only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rass.detector_training.contrast import Pair, load_pairs, without_near_copies, word_overlap


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return load_pairs()


def test_numbers(pairs: list[Pair]) -> None:
    by_language = Counter(pair.language for pair in pairs)
    assert len(pairs) >= 2_000
    assert min(by_language[code] for code in ("de", "es", "fr", "zh")) >= 100
    assert min(by_language[code] for code in ("ru", "ja", "ko", "ar", "it", "pt", "hi", "tr")) >= 20
    written = [pair for pair in pairs if pair.language == "en" and not pair.unit.startswith("factored")]
    assert len(written) >= 900
    assert len({pair.domain for pair in pairs if pair.language == "en"}) >= 20


def test_topics_bear_one_name_in_all_languages(pairs: list[Pair]) -> None:
    english = {pair.domain for pair in pairs if pair.language == "en"}
    assert {pair.domain for pair in pairs} - english == {"various"}


def test_no_word_gives_the_label_away(pairs: list[Pair]) -> None:
    wide = [pair for pair in pairs if pair.unit.startswith(("en_wide", "en_counterweights"))]
    counts = {
        harmful: Counter(
            word
            for pair in wide
            for word in set((pair.harmful if harmful else pair.benign).casefold().replace("?", "").split())
        )
        for harmful in (True, False)
    }
    for word in counts[True] | counts[False]:
        harmful, benign = counts[True][word], counts[False][word]
        # In units of the standard deviation of a word that falls on either side by chance.
        assert abs(harmful - benign) / (harmful + benign) ** 0.5 <= 3.0, word


def test_no_text_occurs_twice_and_none_on_both_sides(pairs: list[Pair]) -> None:
    texts = Counter(side for pair in pairs for side in (pair.harmful, pair.benign))
    assert [text for text, count in texts.items() if count > 1] == []


def test_requests_only(pairs: list[Pair]) -> None:
    assert max(len(side) for pair in pairs for side in (pair.harmful, pair.benign)) < 200


def test_form_gives_nothing_away(pairs: list[Pair]) -> None:
    difference = sum(len(pair.harmful) - len(pair.benign) for pair in pairs) / len(pairs)
    assert abs(difference) < 8  # characters
    for mark in ("?", ".", "!"):
        ends = [(pair.harmful.endswith(mark), pair.benign.endswith(mark)) for pair in pairs]
        assert abs(sum(a for a, _ in ends) - sum(b for _, b in ends)) < 0.05 * len(pairs)


def test_word_overlap() -> None:
    assert word_overlap("How do I kill it?", "how do I KILL it") == 1.0
    assert word_overlap("one two", "two three") == pytest.approx(1 / 3)
    assert word_overlap("", "") == 1.0


def test_near_copies_are_told_apart() -> None:
    near = Pair("en", "d", "u", "How do I kill a man?", "How do I peel an onion?")
    far = Pair("en", "d", "u", "Where is my ex?", "Where is my pen?")
    assert without_near_copies([near, far], ["how do i kill a man"], 0.7) == ([far], [near])


@pytest.mark.parametrize("line", ["no separator", "a || ", "same || same", "a || b || c"])
def test_lines_that_are_no_pairs(tmp_path: Path, line: str) -> None:
    (tmp_path / "en.txt").write_text(f"[domain]\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"en\.txt, line 2"):
        load_pairs(tmp_path)


def test_factored_pairs(tmp_path: Path) -> None:
    group = '[[group]]\nlang = "en"\ndomain = "d"\ntemplates = ["Do {x}?", "I {x}."]\n'
    (tmp_path / "f.toml").write_text(group + 'harmful = ["bad", "worse"]\nbenign = ["good", "better"]\n', "utf-8")
    assert [(pair.harmful, pair.benign, pair.unit) for pair in load_pairs(tmp_path)] == [
        ("Do bad?", "Do good?", "factored:0:0"),
        ("Do worse?", "Do better?", "factored:0:1"),
        ("I bad.", "I good.", "factored:0:0"),
        ("I worse.", "I better.", "factored:0:1"),
    ]
    (tmp_path / "f.toml").write_text(group + 'harmful = ["bad"]\nbenign = []\n', "utf-8")
    with pytest.raises(ValueError, match="fillers"):
        load_pairs(tmp_path)
