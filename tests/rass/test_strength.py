"""The search finds the steering that works and the least of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from detectors.dialects import EXPRESSIBLE, DialectName
from rass.answers import AnswerPools, AnswerSettings, answer_rows
from rass.errors import StageError
from rass.model import ChatModel
from rass.observe import Observations, observe
from rass.prompts import LabelledPrompt, PromptSet
from rass.strength import (
    StrengthPools,
    StrengthSettings,
    choose_strength,
    expressible_search,
    flip_strengths,
    planned_generations,
)
from rass.vectors import build


@pytest.fixture
def observed(world_judge: object) -> Callable[[ChatModel, PromptSet], tuple[Observations, list[LabelledPrompt]]]:
    """Observe a model on prompts; returns that and the prompts that it refused."""

    def run(model: ChatModel, prompts: PromptSet) -> tuple[Observations, list[LabelledPrompt]]:
        observations = observe(
            model,
            prompts,
            world_judge,
            answers_per_kind=200,
            max_new_tokens=8,
            seed=0,
            read_progress=lambda _rows: None,
            answer_progress=lambda _rows: None,
        )
        return observations, [prompts.prompts[row] for row, verdict in observations.refused.items() if verdict]

    return run


def test_flip_strength_is_the_least_that_answers() -> None:
    outcomes = {1.0: ["refused", "refused", "on_topic"], 0.5: ["refused"] * 3, 2.0: ["off_topic", "refused", "refused"]}
    assert flip_strengths(outcomes) == [2.0, None, 1.0]


def test_search_prefers_weak_steering_that_answers_everything(
    linear_world: Callable[[], ChatModel],
    world_judge: object,
    make_prompts: Callable[..., PromptSet],
    observed: Callable,
) -> None:
    model, prompts = linear_world(), make_prompts("selection", frames=3)
    observations, refused = observed(model, prompts)
    pools = StrengthPools(
        recoverable=tuple(prompt for prompt in refused if not prompt.harmful),
        attacks=tuple(prompt for prompt in refused if prompt.kind == "attack"),
        leaking=tuple(prompt for prompt in refused if prompt.kind == "harmful")[:4],
        harmful_units={"de": 100, "en": 100},
    )
    settings = StrengthSettings(screen=4, refine=8, measure=20)
    counted: list[int] = []
    choice = choose_strength(model, build(observations), pools, world_judge, settings, counted.append)
    assert choice.config.layer <= 1  # steering after layer 1 comes too late in this world
    assert choice.by_language == {"de": 1.0, "en": 1.0} or set(choice.by_language.values()) <= {0.5, 1.0, 1.5}
    best = {point.strength: point for point in choice.curve["en"]}
    assert best[choice.by_language["en"]].on_topic > 0.95
    assert best[6.0].gated_leak == pytest.approx(
        len({one.base_id for one in pools.leaking if one.language == "en"}) / 100
    )
    assert 0 < sum(counted) <= planned_generations(3, 2, pools, settings)
    with pytest.raises(StageError, match="nothing to recover"):
        choose_strength(
            model, build(observations), replace(pools, recoverable=()), world_judge, settings, counted.append
        )


def test_answers_are_learnt_from_what_flips_attacks_where_the_chosen_steering_does_not(
    linear_world: Callable[..., ChatModel],
    world_judge: object,
    make_prompts: Callable[..., PromptSet],
    observed: Callable,
) -> None:
    model, prompts = linear_world(stubborn=True), make_prompts("selection", frames=3)
    observations, refused = observed(model, prompts)
    recoverable = tuple(prompt for prompt in refused if not prompt.harmful)
    attacks = tuple(prompt for prompt in refused if prompt.kind == "attack")
    vectors = build(observations)
    settings = StrengthSettings(screen=4, finalists=99, refine=8, measure=20)
    choice = choose_strength(
        model,
        vectors,
        StrengthPools(recoverable, attacks, leaking=(), harmful_units={"de": 100, "en": 100}),
        world_judge,
        settings,
        lambda _rows: None,
    )
    assert choice.config.layer == 1  # as good for benign requests, and it flips fewer attacks
    assert max(point.attacks_answered for point in choice.curve["de"]) == 0.0
    assert choice.provocations["de"].config.layer == 0
    pools = AnswerPools(attacks, recoverable, answered=())
    rows = answer_rows(model, vectors, choice, pools, world_judge, AnswerSettings(), lambda _rows: None)
    assert {prompt.language for prompt, label in zip(rows.prompts, rows.labels, strict=True) if label} == {"de", "en"}


@pytest.mark.parametrize("dialect", [DialectName.HOTWIRE, DialectName.VLLM_LENS, DialectName.PAIR])
def test_the_search_for_another_engine_is_over_what_it_can_express(dialect: DialectName) -> None:
    can, search = EXPRESSIBLE[dialect], expressible_search(dialect)
    assert (search.forms, search.spans, search.first_layer) == (can.forms, can.spans, can.first_layer)
    # one form and one span instead of two of each
    nobody = StrengthPools((), (), (), {})
    few = planned_generations(5, 1, nobody, replace(search, refine=0, measure=0))
    assert few <= planned_generations(5, 1, nobody, replace(StrengthSettings(), refine=0, measure=0)) / 4
    assert expressible_search(DialectName.NATIVE) == StrengthSettings()
