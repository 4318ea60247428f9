"""Rows of a shared batch: each one as if it were alone, each one freed, none left waiting."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest
import torch

from detectors.manifest import SteeringForm, SteeringSpan
from rass.conversation import Conversation
from rass.hooks import Direction, RowSteering
from rass.model import TransformersModel
from rass.serving.engine import Engine, Row
from rass.serving.errors import InvalidRequest, QueueFull, Unavailable
from rass.serving.loading import ServedModel
from rass.serving.manager import PAGE_TOKENS
from rass.serving.plans import RowPlan
from rass.serving.sampling import row_sampling

PROMPTS = [f"Question {number}: how do I kill process {number * 7919}?" for number in range(8)]


def prompt_ids(served: ServedModel, text: str) -> list[int]:
    rendered = f"<|bos|><|user|>{text}<|end|><|assistant|>"
    return list(served.tokenizer(rendered, add_special_tokens=False)["input_ids"])


def plan_of(ids: list[int]) -> RowPlan:
    return RowPlan(prompt_length=len(ids))


async def drain(row: Row) -> None:
    async for _ in row:
        pass


def steerings(engine: Engine) -> list[dict[str, Any]]:
    """Plans for eight rows: two plain ones and six that differ in vector, form, span and strength."""
    digest = engine.bank.digest
    specs: list[tuple[str, float, SteeringForm, SteeringSpan] | None] = [
        None,
        ("refusal-en", 3.0, SteeringForm.ADD, SteeringSpan.ONWARD),
        ("refusal-zh", -2.0, SteeringForm.ADD, SteeringSpan.ONWARD),
        None,
        ("refusal-en", 20.0, SteeringForm.ADD, SteeringSpan.LAST_PROMPT_TOKEN),
        ("refusal-en", 1.0, SteeringForm.ABLATE, SteeringSpan.ONWARD),
        ("refusal-zh", 8.0, SteeringForm.ABLATE, SteeringSpan.LAST_PROMPT_TOKEN),
        ("refusal-en", 0.5, SteeringForm.ADD, SteeringSpan.ONWARD),
    ]
    plans: list[dict[str, Any]] = []
    for spec in specs:
        if spec is None:
            plans.append({})
            continue
        name, strength, form, span = spec
        steering = engine.bank.steering(f"{name}@{digest}", strength, form=form, span=span)
        plans.append({"pushes": steering.pushes, "span": steering.span})
    return plans


@pytest.mark.parametrize("max_batch_tokens", [1024, 40], ids=["whole prompts", "chunked prompts"])
async def test_every_row_of_a_mixed_batch_equals_its_solo_run(start_engine, generate, served, max_batch_tokens):
    prompts = [prompt_ids(served, text) for text in PROMPTS]
    async with start_engine(max_concurrency=8, max_batch_tokens=max_batch_tokens) as engine:
        plans = steerings(engine)
        solo = [await generate(engine, ids, **plan) for ids, plan in zip(prompts, plans, strict=True)]
        together = await asyncio.gather(
            *(generate(engine, ids, **plan) for ids, plan in zip(prompts, plans, strict=True))
        )
        unsteered = await asyncio.gather(*(generate(engine, ids) for ids in prompts))
    assert together == solo
    assert unsteered[0] == solo[0]
    assert unsteered[3] == solo[3]
    changed = [steered != plain for steered, plain in zip(solo, unsteered, strict=True)]
    assert changed == [False, True, True, False, True, True, True, True]


async def test_rows_that_start_while_others_run_equal_their_solo_runs(start_engine, generate, served):
    prompts = [prompt_ids(served, text) for text in PROMPTS]
    async with start_engine(max_concurrency=3, max_batch_tokens=64) as engine:
        plans = steerings(engine)
        solo = [await generate(engine, ids, **plan) for ids, plan in zip(prompts, plans, strict=True)]
        queued = await asyncio.gather(
            *(
                generate(engine, ids, limit=24 - index, streaming=index % 2 == 0, **plan)
                for index, (ids, plan) in enumerate(zip(prompts, plans, strict=True))
            )
        )
    assert queued == [tokens[: 24 - index] for index, tokens in enumerate(solo)]


@pytest.mark.parametrize("form", list(SteeringForm))
@pytest.mark.parametrize("span", list(SteeringSpan))
async def test_steering_is_the_pipelines_steering(start_engine, generate, served, bundle, tokenizer, form, span):
    ids = prompt_ids(served, PROMPTS[0])
    strength, name = 2.0, "refusal-zh"
    spec, units = bundle.vector_spec(name), torch.tensor(bundle.vector_array(name))
    amount = strength * (spec.scale if form is SteeringForm.ADD else 1.0)
    layers = {
        layer: Direction(unit[None], torch.tensor([amount]), torch.tensor([spec.mean_projection]))
        for layer, unit in zip(spec.layers, units, strict=True)
    }
    pipeline = TransformersModel(served.model, tokenizer, model_id="tiny", revision="0")
    conversation = Conversation(tuple(ids), (len(ids) - 2,), answered=False)
    [expected] = pipeline.generate([conversation], max_new_tokens=24, steering=RowSteering(form, span, layers))
    async with start_engine() as engine:
        steering = engine.bank.steering(bundle.vector_id(name), strength, form=form, span=span)
        tokens = await generate(engine, ids, pushes=steering.pushes, span=steering.span)
    assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == expected


@pytest.mark.parametrize("warm", ["steered first", "together"])
async def test_a_steered_neighbour_with_the_same_long_prefix_changes_nothing(start_engine, generate, served, warm):
    prefix = "".join(random.Random(5).choices("abcdefgh ", k=360))
    plain_ids, steered_ids = prompt_ids(served, prefix + "one"), prompt_ids(served, prefix + "two")
    async with start_engine(max_concurrency=4, max_batch_tokens=128) as engine:
        alone = await generate(engine, plain_ids)
    async with start_engine(max_concurrency=4, max_batch_tokens=128) as engine:
        pushes = engine.bank.steering(f"refusal-en@{engine.bank.digest}", 30.0).pushes
        if warm == "steered first":
            await generate(engine, steered_ids, pushes=pushes)
            await generate(engine, plain_ids, pushes=pushes)
            answer = await generate(engine, plain_ids)
        else:
            answer, *_ = await asyncio.gather(
                generate(engine, plain_ids),
                generate(engine, plain_ids, pushes=pushes),
                generate(engine, steered_ids, pushes=pushes),
            )
    assert answer == alone


async def test_a_turn_after_a_steered_answer_sees_no_trace_of_the_steering(start_engine, generate, served):
    prompt = prompt_ids(served, "".join(random.Random(6).choices("abcdefgh ", k=300)))
    async with start_engine() as engine:
        pushes = engine.bank.steering(f"refusal-en@{engine.bank.digest}", 30.0).pushes
        steered = await generate(engine, prompt, limit=100, pushes=pushes)
        # The same tokens again, now as a prompt: cached keys and values of the steered positions would fit it.
        later = await generate(engine, [*prompt, *steered, 7, 8, 9])
    async with start_engine() as engine:
        alone = await generate(engine, [*prompt, *steered, 7, 8, 9])
    page_end = -(-len(prompt) // PAGE_TOKENS) * PAGE_TOKENS
    assert len(prompt) + len(steered) > page_end, "a whole cache page holds steered positions"
    assert later == alone


async def test_a_row_that_overflows_does_not_touch_the_others(start_engine, generate, served):
    ids = prompt_ids(served, PROMPTS[0])
    async with start_engine(max_concurrency=4) as engine:
        alone = await generate(engine, ids)
        [push] = engine.bank.steering(f"refusal-en@{engine.bank.digest}", 1.0).pushes
        broken = type(push)(push.layer, push.direction, float("inf"), push.slope)
        answers = await asyncio.gather(
            generate(engine, ids), generate(engine, prompt_ids(served, PROMPTS[1]), pushes=(broken,))
        )
    assert answers[0] == alone


async def test_a_seed_gives_the_same_answer_in_any_company(start_engine, generate, served):
    ids = prompt_ids(served, PROMPTS[0])

    def sampled(seed: int | None, temperature: float = 1.0, top_p: float = 0.9) -> Any:
        return row_sampling(temperature, top_p, seed, "cpu")

    async with start_engine(max_concurrency=6) as engine:
        greedy = await generate(engine, ids)
        alone = await generate(engine, ids, sampling=sampled(11))
        together = await asyncio.gather(
            generate(engine, ids, sampling=sampled(12)),
            generate(engine, ids),
            generate(engine, ids, sampling=sampled(11)),
            generate(engine, prompt_ids(served, PROMPTS[1]), sampling=sampled(None, 2.0)),
            generate(engine, ids, sampling=sampled(11, 1.0, 0.0)),
        )
    assert together[2] == alone
    assert together[0] != alone
    assert together[1] == greedy
    assert together[4] == greedy, "a nucleus of one token is greedy"


async def test_a_cancelled_row_frees_its_place_and_its_cache(start_engine, generate, served):
    ids = prompt_ids(served, PROMPTS[0])
    async with start_engine(max_concurrency=1, cache_tokens=512) as engine:
        row = await engine.open(ids, plan_of(ids), max_new_tokens=400, streaming=True)
        await row.next()
        assert (engine.admission.running, engine.admission.used_pages) == (1, -(-(len(ids) + 400) // 32))
        row.close()
        row.close()
        assert (engine.admission.running, engine.admission.used_pages) == (0, 0)
        # The cache holds one such row only, so the next one proves that the manager freed it too.
        assert len(await generate(engine, ids, limit=400)) > 0


async def test_the_cache_is_as_large_as_asked_for_and_many_rows_pass_through_it(start_engine, generate, served):
    prompts = [prompt_ids(served, f"{index} " * 20) for index in range(24)]
    async with start_engine(max_concurrency=8, cache_tokens=512, max_batch_tokens=64) as engine:
        answers = await asyncio.gather(*(generate(engine, ids, limit=30) for ids in prompts))
        solo = [await generate(engine, ids, limit=30) for ids in prompts[:3]]
        assert engine.admission.running == engine.admission.used_pages == 0
    assert answers[:3] == solo


async def test_the_queue_is_bounded(start_engine, served, until):
    ids = prompt_ids(served, PROMPTS[0])
    async with start_engine(max_concurrency=1, max_waiting=1, wait_limit_s=0.05) as engine:
        row = await engine.open(ids, plan_of(ids), max_new_tokens=400, streaming=True)
        waiting = asyncio.create_task(engine.open(ids, plan_of(ids), max_new_tokens=4, streaming=True))
        await until(lambda: engine.admission.waiting == 1)
        with pytest.raises(QueueFull):
            await engine.open(ids, plan_of(ids), max_new_tokens=4, streaming=True)
        with pytest.raises(Unavailable, match="no place became free"):
            await waiting
        row.close()


async def test_what_can_never_fit_is_refused(start_engine, served):
    async with start_engine(cache_tokens=64) as engine:
        assert engine.context_length == 64
        with pytest.raises(InvalidRequest, match="do not fit"):
            await engine.open([5] * 60, plan_of([5] * 60), max_new_tokens=5, streaming=False)


async def test_a_dead_generation_thread_fails_waiting_and_later_requests(start_engine, served, until, caplog):
    ids, someone_waits = prompt_ids(served, PROMPTS[0]), threading.Event()

    def explode(*_: Any) -> None:
        someone_waits.wait(30)
        raise RuntimeError("out of memory")

    handle = served.model.register_forward_pre_hook(explode)
    async with start_engine(max_concurrency=1) as engine:
        row = await engine.open(ids, plan_of(ids), max_new_tokens=400, streaming=True)
        waiting = asyncio.create_task(engine.open(ids, plan_of(ids), max_new_tokens=4, streaming=True))
        await until(lambda: engine.admission.waiting == 1)
        someone_waits.set()
        with pytest.raises(Unavailable, match="out of memory"):
            await asyncio.wait_for(drain(row), timeout=30)
        with pytest.raises(Unavailable, match="out of memory"):
            await asyncio.wait_for(waiting, timeout=30)
        with pytest.raises(Unavailable, match="died"):
            await engine.open(ids, plan_of(ids), max_new_tokens=4, streaming=False)
        health = engine.health()
        assert not health.ok
        assert "out of memory" in str(health.reason)
        row.close()
    handle.remove()


async def test_a_stuck_forward_pass_fails_its_requests(start_engine, served):
    ids, release = prompt_ids(served, PROMPTS[0]), threading.Event()

    def hang(*_: Any) -> None:
        release.wait(30)

    handle = served.model.model.layers[0].register_forward_pre_hook(hang)
    async with start_engine(stall_limit_s=0.2) as engine:
        row = await engine.open(ids, plan_of(ids), max_new_tokens=4, streaming=False)
        with pytest.raises(Unavailable, match="no step for"):
            await asyncio.wait_for(row.next(), timeout=30)
        assert not engine.health().ok
        row.close()
        release.set()
        handle.remove()


async def test_an_answer_that_takes_too_long_is_given_up(start_engine, served):
    ids = prompt_ids(served, PROMPTS[0])
    async with start_engine(request_limit_s=0.0) as engine:
        row = await engine.open(ids, plan_of(ids), max_new_tokens=4, streaming=False)
        with pytest.raises(Unavailable, match="took longer"):
            await row.next()
        row.close()
        assert engine.admission.running == 0


async def test_a_stopping_engine_fails_what_still_runs(served, bundle):
    ids = prompt_ids(served, PROMPTS[0])
    engine = Engine(served, bundle)
    with pytest.raises(Unavailable, match="not started"):
        await engine.open(ids, plan_of(ids), max_new_tokens=4, streaming=False)
    await engine.start()
    row = await engine.open(ids, plan_of(ids), max_new_tokens=400, streaming=True)
    assert await engine.stop()
    with pytest.raises(Unavailable, match="stopping"):
        await drain(row)
    row.close()
    assert not engine.is_stuck
    assert served.model.config._attn_implementation == "sdpa"
    assert not served.model._forward_hooks
    assert not served.model._forward_pre_hooks
