from __future__ import annotations

import numpy as np
import pytest

from detectors.refusal import TextRefusalDetector, parse_weights
from rass.cli import main
from rass.detector_training.refusal import featurize, fit, save, without
from rass.detector_training.refusal_data import SOURCES, Example
from rass.detector_training.refusal_fit import Sparse, fit_sparse
from rass.detector_training.refusal_wordings import read_wordings
from rass.logistic import fit_logistic


def test_the_sparse_fit_finds_what_the_exact_one_finds() -> None:
    rng = np.random.default_rng(3)
    columns = [sorted(set(rng.integers(0, 6, 3).tolist())) for _ in range(300)]
    table = np.zeros((300, 6))
    for row, found in enumerate(columns):
        table[row, found] = 0.5
    labels = rng.random(300) < 1 / (1 + np.exp(-(table @ np.array([3.0, -3.0, 1.0, 0.0, 0.0, -1.0]))))
    weights = rng.random(300)
    sparse, bias = fit_sparse(Sparse(columns, [0.5] * 300, 6), np.zeros(300), labels, weights, 1e-3)
    exact = fit_logistic(table, labels, weights, penalty=1e-3)
    assert np.allclose(np.append(sparse, bias), exact, atol=1e-3)


def test_offsets_are_taken_into_account() -> None:
    labels = np.array([True, True, False, False])
    offsets = np.array([4.0, 4.0, -4.0, -4.0])
    found, _ = fit_sparse(Sparse([[0], [0], [], []], [1.0] * 4, 1), offsets, labels, np.ones(4), 1e-2)
    alone, _ = fit_sparse(Sparse([[0], [0], [], []], [1.0] * 4, 1), np.zeros(4), labels, np.ones(4), 1e-2)
    assert abs(found[0]) < alone[0]


def test_wordings_are_filled_in_and_of_both_kinds() -> None:
    examples = read_wordings()
    assert examples == read_wordings()
    assert not any("{" in example.response for example in examples if "def " not in example.response)
    refusals = sum(example.refusal for example in examples)
    assert 0.2 < refusals / len(examples) < 0.8


def test_a_partial_wording_counts_half_as_a_refusal_and_half_as_an_answer() -> None:
    text = "I can't predict where the price will go. Over the last ten years it has risen by about four percent a year"
    halves = [example for example in read_wordings() if example.response.startswith(text)]
    assert [example.refusal for example in halves] == [True, False]
    whole = next(example for example in read_wordings() if example.response == "I can't assist with that.")
    assert sum(example.weight for example in halves) == whole.weight


def test_weights_survive_being_saved(tmp_path) -> None:
    rows = featurize([*read_wordings()[::3], *(_example(number) for number in range(60))])
    weights = fit(rows)
    assert fit(rows) == weights
    of_source = sum(row.example.source == "wordings" for row in rows)
    assert 0 < of_source == len(rows) - len(without(rows, "wordings"))
    names = {source.file: "0" * 64 for source in SOURCES}
    save(weights, tmp_path / "w.json", files=names, counts={SOURCES[0].name: 60})
    read = parse_weights((tmp_path / "w.json").read_text(encoding="utf-8"))
    assert read == weights
    assert TextRefusalDetector(None, read).judge("I'm sorry, but I can't help with that.").refused


def test_missing_data_is_told(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RASS_DATA", raising=False)
    assert main(["detector", "train", "refusal"]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["detector", "train", "refusal", "--data", str(tmp_path)]) == 2
    assert "missing" in capsys.readouterr().err


def _example(number: int) -> Example:
    text = "I'm sorry, but I can't help with that." if number % 2 else "Sure, here is the recipe that you asked for."
    return Example(SOURCES[0].name, "en", "", f"{text} {number}", bool(number % 2), 1.0)
