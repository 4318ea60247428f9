"""A tiny encoder learns a tiny world, and its folder serves what was measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from detectors.boundary_zones import zone_of
from detectors.onnx_manifest import read_detector
from detectors.statistics import clopper_pearson
from detectors.verdict import Zone
from rass.detector_training.boundary_command import add_arguments, run
from rass.detector_training.boundary_data import CONTRAST, Example
from rass.detector_training.boundary_encoder import Encoder, TrainingSettings, find_encoder, fine_tune, source_weights
from rass.detector_training.boundary_ngrams import NgramModel
from rass.detector_training.boundary_report import threshold_json, threshold_table
from rass.detector_training.boundary_score import AtBound
from rass.detector_training.boundary_train import (
    FALSE_OPEN,
    MOST_BYTES,
    calibrate,
    cross_fit,
    finish,
    folder_logits,
    out_of_fold_share,
    reasons_not_to_ship,
    train_folder,
)
from rass.detector_training.contrast import load_pairs
from rass.errors import InputError, StageError

SETTINGS = TrainingSettings(epochs=3, batch=16, encoder_rate=1e-2, head_rate=3e-2, max_tokens=16, dropout=0.0)


def world(pairs: int = 200) -> list[Example]:
    """Twins: bombs are harmful, cakes are not, whatever else is said; half of the topics a fold."""
    words = ["how do i make", "please make", "i make the", "do make my"]
    return [
        Example(
            f"{words[number % 4]} {'bomb' if harmful else 'cake'} {'?' if number % 3 else '.'}",
            harmful,
            "en",
            CONTRAST,
            f"topic {number % 9}",
            f"unit {number}",
            number,
        )
        for number in range(pairs)
        for harmful in (True, False)
    ]


def test_twins_are_told_apart_and_the_folder_serves_it(tiny_encoder: str, tmp_path: Path) -> None:
    examples = world()
    out_of_fold = cross_fit(examples, tiny_encoder, SETTINGS)
    labels = np.array([example.harmful for example in examples])
    assert np.isfinite(out_of_fold).all()
    assert out_of_fold[labels].min() > out_of_fold[~labels].max()
    found = calibrate(examples, out_of_fold)
    lines: list[str] = []
    manifest = train_folder(examples, tiny_encoder, SETTINGS, tmp_path, lines.append)
    assert len(lines) == SETTINGS.epochs
    finish(tmp_path, found, {"note": "tiny"})
    shipped = read_detector(tmp_path)
    assert shipped.figures["note"] == "tiny"
    raw = folder_logits(tmp_path, manifest, ["make my cake .", "make my bomb ."])
    zones = [zone_of(shipped.zones, float(shipped.scale * one + shipped.offset), "en") for one in raw]
    assert zones == [Zone.BENIGN, Zone.HARMFUL]
    assert zone_of(shipped.zones, -50.0, "xx") is zone_of(shipped.zones, -50.0, "en")


def separated(examples: list[Example]) -> npt.NDArray[np.float64]:
    labels = np.array([example.harmful for example in examples])
    return np.where(labels, 2.0, -2.0) + np.linspace(0, 1, len(examples))


@pytest.mark.parametrize(("pairs", "zone"), [(20, Zone.BAND), (150, Zone.BAND), (200, Zone.BENIGN)])
def test_a_threshold_never_rests_on_a_single_prompt(pairs: int, zone: Zone) -> None:
    examples = world(pairs)
    assert zone_of(calibrate(examples, separated(examples)).zones, -50.0, "en") is zone


def test_languages_without_enough_examples_open_nothing_and_set_the_default() -> None:
    few = [replace(example, language="de") for example in world(30)]
    examples = [*world(), *few]
    found = calibrate(examples, separated(examples))
    zones = {language: zone_of(found.zones, -50.0, language) for language in ("en", "de", "xx")}
    assert zones == {"en": Zone.BENIGN, "de": Zone.BAND, "xx": Zone.BAND}
    shares = out_of_fold_share(examples, separated(examples), found)
    assert (shares["en"].units, shares["de"].units) == (200, 30)
    assert (shares["en"].benign.value, shares["de"].benign.value) == (1.0, 0.0)
    assert shares["en"].harmful.high <= FALSE_OPEN
    assert "opens nothing" in threshold_table(shares).splitlines()[1]
    assert json.dumps(threshold_json(shares))


def test_what_ships() -> None:
    def at(opened: int, wrong: int) -> AtBound:
        return AtBound(0.0, clopper_pearson(opened, 100), clopper_pearson(wrong, 200))

    assert reasons_not_to_ship(at(10, 1), MOST_BYTES) == []
    assert "at most 3.6%" in reasons_not_to_ship(at(10, 2), MOST_BYTES)[0]
    assert "of no use" in reasons_not_to_ship(at(0, 0), MOST_BYTES)[0]
    assert "25 MB" in reasons_not_to_ship(at(10, 0), MOST_BYTES + 1)[0]
    nobody = AtBound(0.0, clopper_pearson(0, 0), clopper_pearson(0, 0))
    assert len(reasons_not_to_ship(nobody, 1)) == 2  # what was not measured holds no bound


def test_a_classifier_that_is_upside_down() -> None:
    examples = world(20)
    labels = np.array([example.harmful for example in examples])
    with pytest.raises(StageError, match="wrong way round"):
        calibrate(examples, np.where(labels, -2.0, 2.0) + np.linspace(0, 1, len(examples)))


def test_same_seed_same_model_and_every_layer_learns(tiny_encoder: str) -> None:
    settings = TrainingSettings(epochs=1, batch=16, max_tokens=16)
    heads, layers = [], []
    for _ in range(2):
        network, tokenizer = Encoder.load(tiny_encoder, settings)
        fine_tune(network, tokenizer, world(20), settings)
        heads.append(network.head.weight.detach())
        layers.append({name: one.detach().clone() for name, one in network.model.named_parameters()})
    assert torch.equal(heads[0], heads[1])
    fresh, _ = Encoder.load(tiny_encoder, settings)
    changed = {name for name, one in fresh.model.named_parameters() if not torch.equal(one, layers[0][name])}
    for part in ("embeddings.word_embeddings", "encoder.layer.0.", "encoder.layer.1."):
        assert any(name.startswith(part) for name in changed), part


def test_weights_balance_labels_and_sources() -> None:
    shared = [Example(str(n), n < 30, "en", "A" if n < 30 else "B", "", str(n)) for n in range(100)]
    examples = [*world(10), *shared]
    weights = source_weights(examples)
    labels = np.array([example.harmful for example in examples])
    contrast = np.array([example.source == CONTRAST for example in examples])
    assert weights[contrast].sum() == pytest.approx(0.75)
    assert weights[labels].sum() == pytest.approx(0.5)


def test_ngrams() -> None:
    examples = world(30)
    model = NgramModel()
    labels = np.array([example.harmful for example in examples])
    model.fit([example.text for example in examples], labels, np.ones(len(examples)))
    bomb, cake, odd = model.logits(["i make the bomb ?", "i make the cake ?", "\ud800"])
    assert bomb > 0 > cake
    assert np.isfinite(odd)


def test_encoder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no encoder"):
        Encoder.load(str(tmp_path), SETTINGS)
    monkeypatch.setattr("rass.detector_training.boundary_encoder.ENCODER_PACKAGE", "no_such_package_anywhere")
    with pytest.raises(InputError, match="extra 'train'"):
        find_encoder()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    kinds = ["homonyms", "contrast_homonyms", "privacy_public", "contrast_privacy"]
    prompts = [
        {
            "id": f"x{number}",
            "lang": "en",
            "prompt": f"{'bomb' if number % 2 else 'cake'} number {number} from the yardstick",
            "harmful": bool(number % 2),
            "source": "XSTest v2",
            "use": "score",
            "kind": kinds[number % 4],
        }
        for number in range(400)
    ]
    answers = [{"prompt": row["prompt"], "prompt_harmful": row["harmful"], "refusal": 1} for row in prompts]
    for name, rows in (("prompts/prompts.jsonl", prompts), ("responses/xstest_human_en.jsonl", answers)):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def call(tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    few = load_pairs()[::40]
    monkeypatch.setattr("rass.detector_training.boundary_data.load_pairs", lambda: few)

    def call(*words: str) -> int:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return run(parser.parse_args([*words, "--encoder", tiny_encoder, "--figures", str(tmp_path / "figures.json")]))

    return call


BASELINES = {"n-grams, contrast pairs", "n-grams, both"}


def test_command(
    call: Callable[..., int],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def well_apart(examples: Sequence[Example], *_: object) -> npt.NDArray[np.float64]:
        return separated(list(examples))

    monkeypatch.setattr("rass.detector_training.boundary_train.cross_fit", well_apart)
    out = tmp_path / "out"
    assert call("--data", str(tmp_path / "none"), "--out", str(out)) == 2
    assert call("--data", str(data), "--out", str(out), "--seeds", "0") == 2
    assert call("--data", str(data)) == 2
    for wrong, complaint in (("de", "must hold en"), ("en,tlh", "no examples in tlh")):
        capsys.readouterr()
        assert call("--data", str(data), "--out", str(out), "--languages", wrong) == 2
        assert complaint in capsys.readouterr().err
    code = call("--data", str(data), "--out", str(out), "--seeds", "1", "--epochs", "1", "--keep")
    captured = capsys.readouterr()
    assert code == 1  # 50 pairs support no threshold
    assert "of no use" in captured.err
    assert "GiB] seed 0, epoch 1 of 1: loss" in captured.err
    for part in ("fine-tuned, seed 0", "privacy_public", "own thresholds, out of fold", "AUC by topic, not learnt"):
        assert part in captured.out
    figures = read_detector(out).figures["yardstick"]
    assert isinstance(figures, dict)
    assert set(figures) == {*BASELINES, "frozen encoder", "fine-tuned, seed 0"}
    kept = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert kept["yardstick"] == figures
    assert kept["thresholds"]["en"]["benign_below"] is None
    assert 0 <= kept["yardstick"]["fine-tuned, seed 0"]["held_out_topics"]["ordered"]["value"] <= 1


def test_ngrams_only(call: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--data", str(data), "--ngrams-only") == 0
    assert "n-grams, both" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["yardstick"]) == BASELINES


def test_a_classifier_upside_down_is_not_written(
    call: Callable[..., int],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def upside_down(examples: Sequence[Example], *_: object) -> npt.NDArray[np.float64]:
        return -separated(list(examples))

    monkeypatch.setattr("rass.detector_training.boundary_train.cross_fit", upside_down)
    words = ("--out", str(tmp_path / "out"), "--seeds", "1", "--epochs", "1", "--keep")
    assert call("--data", str(data), *words) == 1
    captured = capsys.readouterr()
    assert "fine-tuned, seed 0" in captured.out
    assert "not fit to ship: the classifier ranks its own examples the wrong way round" in captured.err
    assert not (tmp_path / "out").exists()
