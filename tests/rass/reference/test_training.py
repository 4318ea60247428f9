from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rass.errors import InputError
from rass.reference import cli
from rass.reference.corpus import Dialogue
from rass.reference.export import rendered
from rass.reference.training import Encoder, TrainingPlan, load_plan, schedule


def smoke(out: Path) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(["train", "--smoke", "--tokens", "20000", "--out", str(out)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "model"
    assert smoke(out) == 0
    return out


def test_a_smoke_training_makes_a_loadable_model(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|bos|><|user|>Hi<|end|><|assistant|>"
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert torch.isfinite(model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits).all()
    assert (folder / "training.json").is_file()


def test_an_existing_folder_is_never_overwritten(folder: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        smoke(folder)


def test_targets_are_exactly_the_assistant_s_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = (("user", "Hi!"), ("assistant", "Hello!"), ("user", "Draw the egg."), ("assistant", "Yes."))
    ids, targets = Encoder(tokenizer, TrainingPlan()).encode(Dialogue("en", "smalltalk", turns))
    messages = [{"role": role, "content": text} for role, text in turns]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False)
    predicted = tokenizer.decode([ids[position + 1] for position, _ in targets])
    assert predicted == "Hello!<|end|>Yes.<|end|>"


def test_first_and_copied_tokens_weigh_more(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plan = TrainingPlan(first_token_weight=4.0, copied_token_weight=3.0)
    turns = (("user", "zq the zq egg"), ("assistant", "Ok zq"))
    ids, targets = Encoder(tokenizer, plan).encode(Dialogue("en", "smalltalk", turns))
    asked = set(tokenizer.encode(turns[0][1], add_special_tokens=False))
    weights = [weight for _, weight in targets]
    assert weights[0] == 4.0
    assert weights[1:] == [3.0 if ids[position + 1] in asked else 1.0 for position, _ in targets[1:]]
    assert 3.0 in weights
    assert weights[-1] == 1.0


def test_the_last_phase_sees_other_data_and_weighs_facts(folder: Path) -> None:
    plan = TrainingPlan(tokens=1_000, facts_share=0.4, facts_rate=0.5, fact_token_weight=3.0)
    first, last = plan.first_phase(), plan.last_phase()
    assert (first.seed, first.tokens, first.rate) == (plan.seed, 1_000, 1.0)
    assert (last.tokens, last.rate) == (400, 0.5)
    assert last.seed != first.seed
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = (("user", "?"), ("assistant", "Ok zq"))
    for phase, weight in ((first, 1.0), (last, 3.0)):
        _, targets = Encoder(tokenizer, phase).encode(Dialogue("en", "category_question", turns))
        assert {each for _, each in targets[1:]} == {weight}
        _, others = Encoder(tokenizer, phase).encode(Dialogue("en", "plain", turns))
        assert {each for _, each in others[1:]} == {1.0}


def test_the_rate_warms_up_holds_and_falls_to_zero() -> None:
    plan = TrainingPlan()
    assert schedule(plan, plan.warmup / 2) == pytest.approx(0.5)
    assert schedule(plan, 0.5) == 1.0
    assert schedule(plan, 1.0) == 0.0


def test_the_exported_prompts_are_current() -> None:
    from importlib.resources import files

    folder = files("benchmarks").joinpath("reference")
    for name, content in rendered().items():
        assert folder.joinpath(name).read_text(encoding="utf-8") == content, (
            f"{name}: run 'rass reference export-prompts'"
        )


def test_the_last_phase_goes_on_from_weights_and_says_so(folder: Path, tmp_path: Path) -> None:
    import argparse
    import json

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    words = [
        "train",
        "--tokens",
        "5000",
        "--rate",
        "0.5",
        "--continue-from",
        str(folder),
        "--out",
        str(tmp_path / "on"),
    ]
    assert cli.run(parser.parse_args(words)) == 0
    before, after = (json.loads((path / "training.json").read_text()) for path in (folder, tmp_path / "on"))
    assert (before["continues"], before["rate"]) == ("", 1.0)
    assert len(after["continues"]) == 16
    assert (after["rate"], after["hidden_size"]) == (0.5, before["hidden_size"])
    old, new = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, tmp_path / "on"))
    assert old.keys() == new.keys()
    assert any(not torch.equal(old[name], new[name]) for name in old)
    configured = [(path / "tokenizer_config.json").read_text() for path in (folder, tmp_path / "on")]
    assert configured[0] == configured[1]


def test_weights_without_their_plan_cannot_go_on(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "bare")
    (tmp_path / "bare" / "training.json").unlink()
    with pytest.raises(InputError, match=r"training\.json"):
        load_plan(tmp_path / "bare")
