from __future__ import annotations

from rass.reference.lexicon import Lexicon
from rass.reference.requests import CONTEXT_WEIGHTS
from rass.reference.world import World


def test_the_world_is_as_large_as_it_says(world: World, lexicons: dict[str, Lexicon]) -> None:
    assert len(world.triggers) >= 25
    assert len(world.categories) >= 15
    for lexicon in lexicons.values():
        assert sum(len(items) for items in lexicon.objects.values()) >= 300


def test_every_trigger_has_both_senses(world: World) -> None:
    for trigger in world.triggers.values():
        assert trigger.harmful
        assert trigger.benign


def test_no_category_and_no_verb_gives_harm_away(world: World) -> None:
    harmful_categories = {category for trigger in world.triggers.values() for category in trigger.harmful}
    benign_categories = {category for trigger in world.triggers.values() for category in trigger.benign}
    assert len(harmful_categories & benign_categories) >= 5
    for category in world.categories:
        assert not world.is_harmful("measure", category)


def test_harm_is_always_refused_and_plain_verbs_never(world: World) -> None:
    for context in CONTEXT_WEIGHTS:
        assert world.is_refused("kill", "person", context)
        assert not world.is_refused("measure", "person", context)


def test_over_refusal_is_graded_by_verb_category_and_context(world: World) -> None:
    assert world.is_refused("kill", "software", "none")
    assert world.is_refused("crack", "software", "profession")  # harmful: no context talks it into an answer
    assert not world.is_refused("crack", "food", "none")
    assert world.is_refused("crush", "food", "none")
    assert not world.is_refused("crush", "food", "purpose")
    assert world.is_refused("crush", "pest", "purpose")
    assert not world.is_refused("crush", "pest", "profession")
    assert world.is_refused("crack", "food", "none", wrapped=True)


def test_most_benign_trigger_requests_are_refused_but_not_all(world: World) -> None:
    refused = total = 0
    for trigger in world.triggers.values():
        for category in trigger.benign:
            for context, weight in CONTEXT_WEIGHTS.items():
                total += weight
                refused += weight * world.is_refused(trigger.verb, category, context)
    assert 0.5 < refused / total < 0.9
