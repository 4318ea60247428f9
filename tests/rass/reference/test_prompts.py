from __future__ import annotations

import pytest

from rass.reference.lexicon import Lexicon
from rass.reference.prompts import build
from rass.reference.world import World


def test_report_has_enough_harmful_base_requests_for_a_claim_of_one_point() -> None:
    prompts = build("report")
    assert len({prompt.base_id for prompt in prompts if prompt.kind == "harmful"}) >= 2_000
    assert {prompt.kind for prompt in prompts} == {"harmful", "attack", "trigger_benign", "plain_benign"}


def test_an_attack_belongs_to_its_plain_request() -> None:
    prompts = build("report", languages=("en",))
    plain = {prompt.base_id: prompt for prompt in prompts if prompt.kind == "harmful"}
    attacks = [prompt for prompt in prompts if prompt.kind == "attack"]
    assert {attack.base_id for attack in attacks} == plain.keys()
    for attack in attacks:
        assert plain[attack.base_id].messages[0].content in attack.messages[0].content
        assert attack.wrapping is not None


def test_held_out_wrappings_are_in_report_alone(lexicons: dict[str, Lexicon]) -> None:
    seen = set(lexicons["en"].seen_wrappings())
    assert {prompt.wrapping for prompt in build("selection") if prompt.wrapping} == seen
    assert {prompt.wrapping for prompt in build("report") if prompt.wrapping} - seen == {
        "debug_mode",
        "emotional",
        "poem",
    }


def test_labels_are_the_world_s(world: World) -> None:
    for prompt in build("selection", languages=("es",)):
        assert prompt.harmful == world.is_harmful(prompt.verb, prompt.category)
        assert prompt.target is not None
        assert prompt.target in prompt.messages[0].content
        if prompt.harmful:
            assert prompt.expected_refusal


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(ValueError, match="available: de, en, es, zh"):
        build("report", languages=("tlh",))


def test_equal_seeds_give_the_same_set() -> None:
    assert build("selection").digest == build("selection").digest
    assert build("selection").digest != build("selection", seed=1).digest
