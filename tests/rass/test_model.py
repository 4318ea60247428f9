"""The model behind its protocol: batches equal solo runs, positions are right, steering is per row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from detectors.manifest import SteeringForm, SteeringSpan
from detectors.verdict import Message
from rass.errors import InputError, ModelLoadError
from rass.hooks import Direction, RowSteering
from rass.identity import find_model
from rass.model import TransformersModel, load_model

TEXTS = (
    "kill the process",
    "a",
    "how do I blow up a balloon?",
    "¿cómo mato un proceso?",
    "如何杀死进程",
    "hi",
    "x" * 40,
)
DIALOGUES = [(Message("user", text),) for text in TEXTS]


def _steering(amounts: list[float], span: SteeringSpan, width: int = 32) -> RowSteering:
    generator = torch.Generator().manual_seed(3)
    unit = torch.nn.functional.normalize(torch.randn(len(amounts), width, generator=generator), dim=1)
    unit = unit[:1].expand(len(amounts), width)
    return RowSteering(SteeringForm.ADD, span, {1: Direction(unit, torch.tensor(amounts), torch.zeros(len(amounts)))})


def test_batched_reading_equals_solo(model: TransformersModel) -> None:
    conversations = model.render(DIALOGUES)
    together = model.read(conversations)
    for row, conversation in enumerate(conversations):
        alone = model.read([conversation])
        np.testing.assert_allclose(together.ends[row], alone.ends[0], atol=1e-4)
        np.testing.assert_allclose(together.turns[together.owners == row], alone.turns, atol=1e-4)


@pytest.mark.parametrize("span", list(SteeringSpan))
def test_batched_answers_equal_solo_whoever_is_steered(model: TransformersModel, span: SteeringSpan) -> None:
    conversations = model.render(DIALOGUES)
    amounts = [0.0, 8.0, 0.0, -8.0, 4.0, 0.0, 8.0]
    plain = model.generate(conversations, max_new_tokens=12)
    together = model.generate(conversations, max_new_tokens=12, steering=_steering(amounts, span))
    alone = [
        model.generate([one], max_new_tokens=12, steering=_steering([amount], span))[0]
        for one, amount in zip(conversations, amounts, strict=True)
    ]
    assert together == alone
    assert [together[row] for row in (0, 2, 5)] == [plain[row] for row in (0, 2, 5)]
    assert all(together[row] != plain[row] for row in (1, 3))


def test_last_prompt_token_span_is_another_thing_than_onward(model: TransformersModel) -> None:
    conversations = model.render(DIALOGUES)
    once, on = (
        model.generate(conversations, max_new_tokens=12, steering=_steering([8.0] * 7, span))
        for span in (SteeringSpan.LAST_PROMPT_TOKEN, SteeringSpan.ONWARD)
    )
    assert once != on


def test_every_token_steers_what_is_read_at_every_position(model: TransformersModel) -> None:
    two_turns = (Message("user", "ab"), Message("assistant", "c"), Message("user", "de"))
    conversations = model.render([two_turns])
    steering = _steering([2.0], SteeringSpan.EVERY_TOKEN)
    plain, steered = model.read(conversations), model.read(conversations, steering=steering)
    moved = 2.0 * steering.layers[1].unit[0].numpy()
    for before, after in ((plain.turns, steered.turns), (plain.ends, steered.ends)):
        for row in range(len(before)):
            np.testing.assert_allclose(before[row, 1] - after[row, 1], moved, atol=1e-4)


def test_reading_sees_the_steering(model: TransformersModel) -> None:
    two_turns = (Message("user", "ab"), Message("assistant", "c"), Message("user", "de"))
    conversations = model.render([DIALOGUES[0], DIALOGUES[1], two_turns])
    steering = _steering([0.0, 2.0, 2.0], SteeringSpan.LAST_PROMPT_TOKEN)
    plain, steered = model.read(conversations), model.read(conversations, steering=steering)
    np.testing.assert_allclose(plain.ends[0], steered.ends[0], atol=1e-5)
    earlier = np.append(plain.owners[1:] == plain.owners[:-1], False)
    assert earlier.any()
    np.testing.assert_allclose(
        plain.turns[earlier], steered.turns[earlier], atol=1e-5
    )  # nothing before the end changes
    moved = plain.ends[1, 1] - steered.ends[1, 1]
    np.testing.assert_allclose(moved, 2.0 * steering.layers[1].unit[1].numpy(), atol=1e-4)


def test_divergence_is_zero_unsteered_and_positive_steered(model: TransformersModel) -> None:
    conversations = model.render(DIALOGUES[:3])
    steering = _steering([0.0, 4.0, 8.0], SteeringSpan.ONWARD)
    nats = model.divergence(conversations, ["some answer"] * 3, steering, tokens=8)
    assert nats[0] == 0.0
    assert (nats[1:] > 0).all()


def test_progress_counts_every_row(model: TransformersModel) -> None:
    counted: list[int] = []
    model.read(model.render(DIALOGUES), progress=counted.append)
    assert sum(counted) == len(DIALOGUES)


def test_too_long_a_prompt_is_named(model: TransformersModel) -> None:
    with pytest.raises(InputError, match="context is 256"):
        model.render([(Message("user", "x" * 300),)])


def test_saved_model_loads_with_the_digest_of_its_weights(
    model: TransformersModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model._model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    source = find_model(str(tmp_path))
    loaded = load_model(source, device="cpu")
    assert loaded.identity.revision == source.revision
    assert len(loaded.identity.revision) == 16
    conversations = loaded.render(DIALOGUES)
    assert [one.token_ids for one in conversations] == [one.token_ids for one in model.render(DIALOGUES)]
    assert loaded.generate(conversations, max_new_tokens=6) == model.generate(conversations, max_new_tokens=6)


@pytest.mark.parametrize("device", ["cuda:7", "gpu"])
def test_a_device_that_is_not_there_is_named(
    model: TransformersModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, device: str
) -> None:
    model._model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=f"device '{device}' cannot be used"):
        load_model(find_model(str(tmp_path)), device=device)


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="holds no model"):
        find_model(str(tmp_path))
