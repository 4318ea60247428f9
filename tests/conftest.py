"""What holds for every test, and what tests of several packages need: servers on loopback, manifests, bundles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import settings

from detectors import bundle_writer
from detectors.bundle import Bundle, load
from detectors.manifest import (
    LanguageSteering,
    Manifest,
    ModelIdentity,
    ProbePosition,
    ProbeSpec,
    Provenance,
    SteeringForm,
    SteeringPlan,
    SteeringSpan,
    Validation,
    VectorSpec,
    Zones,
    ZoneTable,
    ZoneThresholds,
)

# Examples are bounded in number, not in time: a machine that also does something else is no failure.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

ServerOf = Callable[[web.Application], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[str]:
    """Run an application on loopback until the context is left; yields its URL."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture(scope="session")
def server_of() -> ServerOf:
    """Return ``running``, for what outlives a test; a test itself needs ``start_server``."""
    return running


@pytest.fixture
async def start_server(server_of: ServerOf) -> AsyncIterator[Callable[[web.Application], Awaitable[str]]]:
    """Start applications on loopback, each call returns a URL; after the test they stop, the last one first."""
    async with AsyncExitStack() as stack:

        async def start(app: web.Application) -> str:
            return await stack.enter_async_context(server_of(app))

        yield start


@pytest.fixture
def make_adding_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Make a bundle that adds at every token, as every engine but ours does: English on one layer, Chinese on two.

    Keyword arguments change its steering plan; each name gets a folder of its own.
    """
    width, layers = 8, 5
    rows = np.random.default_rng(7).normal(size=(3, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = {"refusal-en": rows[:1].astype(np.float32), "refusal-zh": rows[1:].astype(np.float32)}
    weight = np.ones(width, dtype=np.float32)
    plan = SteeringPlan(
        SteeringForm.ADD,
        SteeringSpan.EVERY_TOKEN,
        (0.5, 1.0, 2.0),
        {"en": LanguageSteering("refusal-en", 2.0, 0.5), "zh": LanguageSteering("refusal-zh", 1.0, None)},
    )
    manifest = Manifest(
        created="2025-01-31",
        model=ModelIdentity("tiny", "r1", width, layers, "residual stream after block l, 0-based"),
        provenance=Provenance("build-vectors --dialect hotwire --seed 3", 3, "0.1.0", {"selection": 40}),
        languages=("en", "zh"),
        vectors={
            "refusal-en": VectorSpec("refusal-en", "en", (2,), 3.0, 0.1),
            "refusal-zh": VectorSpec("refusal-zh", "zh", (1, 3), 2.5, -0.25),
        },
        steering=plan,
        probes={
            "h": ProbeSpec((2,), ProbePosition.ANSWER_START),
            "answer_h": ProbeSpec((4,), ProbePosition.QUESTION_END),
        },
        zones=Zones(0.01, ZoneTable({}, ZoneThresholds(-4.0, 0.0)), ZoneTable({}, ZoneThresholds(-1.0, 1.0))),
        limits={},
        validation=Validation(True, "report", {}),
        questions={"en": "Was it harmful?", "zh": "这有害吗？"},
    )

    def make(name: str = "bundle", **changes: Any) -> Bundle:
        changed = replace(manifest, steering=replace(plan, **changes))
        probes = {"h": (weight, 0.0), "answer_h": (weight, 0.0)}
        bundle_writer.write(tmp_path / name, changed, vectors=vectors, probes=probes, card="# Card\n")
        return load(tmp_path / name)

    return make
