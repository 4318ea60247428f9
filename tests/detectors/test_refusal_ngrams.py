"""N-grams of answers in other languages than English: what they are, and that they cannot overturn a sure verdict."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest

from detectors.refusal import load_weights, read_ngrams
from detectors.refusal_ngrams import BUCKETS, LENGTHS, MOST, Ngrams, hashed, ngrams, scale
from detectors.refusal_text import prepare

GERMAN = "Tut mir leid, dabei helfe ich dir nicht."


def test_one_bucket_for_each_ngram_wherever_it_stands() -> None:
    for length, buckets in zip(LENGTHS, hashed("abcabcabc", LENGTHS, BUCKETS), strict=True):
        assert len(buckets) == 10 - length
        assert buckets[0] == buckets[3] != buckets[1]
    assert [len(found) for found in hashed("abcd", LENGTHS, BUCKETS)] == [2, 1]
    assert hashed("ab", LENGTHS, BUCKETS) == hashed("", LENGTHS, BUCKETS) == []


def test_hashing_spreads_over_all_buckets() -> None:
    text = "".join(map(chr, np.random.default_rng(0).integers(0x61, 0x1000, 40_000)))
    trigrams, *_ = hashed(text, LENGTHS, 256)
    counts = np.bincount(trigrams, minlength=256)
    assert counts.min() > 100
    assert counts.max() < 220


def test_english_and_empty_answers_have_none() -> None:
    assert len(ngrams(prepare("I am sorry, but that is not something that I can help you with."))) == 0
    assert len(ngrams(prepare(""))) == 0
    found = ngrams(prepare(GERMAN))
    assert len(found) == len(set(found.tolist())) > 60


@pytest.mark.parametrize("sign", [1, -1])
def test_what_they_add_is_bounded_and_told_in_parts(sign: int) -> None:
    loud = Ngrams(np.full(BUCKETS, 5.0 * sign, dtype=np.float32), 0.3)
    quiet = Ngrams(np.full(BUCKETS, 0.01 * sign, dtype=np.float32), 0.1)
    answer = prepare(GERMAN)
    count = len(ngrams(answer))
    assert loud.heard(answer) == sign * MOST
    assert quiet.heard(answer) == pytest.approx(0.1 + sign * 0.01 * count * scale(count), abs=1e-5)
    for weights in (loud, quiet):
        parts = weights.parts(answer)
        assert sum(part for _, part in parts) == pytest.approx(weights.heard(answer), abs=1e-5)
        assert parts[0][0] == "not English"
        assert {" tu", "leid", "nicht"} <= {text for text, _ in parts}


def test_any_string_is_taken() -> None:
    weights = Ngrams(np.ones(BUCKETS, dtype=np.float32), 0.0)
    for text in ("\ud800\udfff\ud800 ия", "٠١٢", "a", "ja", "🙏🙏🙏", "\x00\x01 niet"):
        assert abs(weights.heard(prepare(text))) <= MOST


def test_weights_of_another_size_are_refused() -> None:
    shipped = load_weights()
    assert np.abs(read_ngrams(shipped).weights).max() == pytest.approx(127 * shipped.ngram_scale)
    with pytest.raises(ValueError, match="3 n-grams instead of 65536"):
        read_ngrams(replace(shipped, ngrams=base64.b64encode(b"abc").decode()))
