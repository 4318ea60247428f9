"""What holds for every test, and what tests of several packages need: servers on loopback, manifests, bundles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import settings

from detectors import bundle_writer
from detectors.bundle import Bundle, FloatArray, load
from detectors.manifest import (
    PROBE_POSITIONS,
    LanguageSteering,
    Manifest,
    ModelIdentity,
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

REVISION = "0123456789abcdef"
VECTOR_LAYERS = {"refusal-en": (2,), "refusal-zh": (1, 3)}
VECTOR_SIZES = {"refusal-en": (3.125, 0.1), "refusal-zh": (2.5, -0.25)}
"""The scale of each and the mean projection on it."""
PROBE_LAYERS = {"h": (2, 3), "rho": (3,), "answer_h": (4,)}
STRENGTHS = {"en": LanguageSteering("refusal-en", 2.0, 0.5), "zh": LanguageSteering("refusal-zh", 1.0, None)}

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


def manifest(
    *,
    width: int = 8,
    layers: int = 5,
    revision: str = REVISION,
    vectors: Mapping[str, tuple[int, ...]] = VECTOR_LAYERS,
    probes: Mapping[str, tuple[int, ...]] = PROBE_LAYERS,
    **steering: Any,
) -> Manifest:
    """Make a manifest of a model with ``layers`` blocks; ``vectors`` and ``probes`` say which there are, and on which.

    Further keywords change the steering plan, which otherwise adds from the end of the prompt on.
    """
    specs = {name: VectorSpec(name, name[-2:], at, *VECTOR_SIZES[name]) for name, at in vectors.items()}
    by_language = {spec.language: STRENGTHS[spec.language] for spec in specs.values()}
    plan = SteeringPlan(SteeringForm.ADD, SteeringSpan.ONWARD, (0.5, 1.0, 2.0), by_language)
    return Manifest(
        created="2025-01-31",
        model=ModelIdentity("tiny", revision, width, layers, "residual stream after block l, 0-based"),
        provenance=Provenance("build-vectors --seed 3", 3, "0.1.0", {"selection": 40, "report": 60}),
        languages=tuple(by_language),
        vectors=specs,
        steering=replace(plan, **steering),
        probes={
            name: ProbeSpec(at, PROBE_POSITIONS[name], 0.25 if name == "asked_h" else None)
            for name, at in probes.items()
        },
        zones=Zones(
            0.01,
            ZoneTable({"en": ZoneThresholds(-2.0, 1.0)}, ZoneThresholds(-4.0, 0.0)),
            ZoneTable({}, ZoneThresholds(-1.0, 1.0)) if "answer_h" in probes else None,
        ),
        limits={"max_false_open": 0.01},
        validation=Validation(True, "report", {"orr": {"value": 0.05, "low": 0.03, "high": 0.08}}),
        questions={"de": "War das schädlich?", "en": "Was it harmful?"},
    )


def directions(described: Manifest, random: np.random.Generator) -> dict[str, FloatArray]:
    """Draw unit directions for a manifest's vectors: float32, a row for each layer."""
    drawn = {}
    for name, spec in described.vectors.items():
        rows = random.normal(size=(len(spec.layers), described.model.hidden_size))
        drawn[name] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return drawn


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    """Return ``manifest``."""
    return manifest


@pytest.fixture(scope="session")
def draw_directions() -> Callable[[Manifest, np.random.Generator], dict[str, FloatArray]]:
    """Return ``directions``."""
    return directions


@pytest.fixture
def make_adding_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Make a bundle that adds at every token, as every engine but ours does: English on one layer, Chinese on two.

    Keyword arguments are those of ``make_manifest``; each name gets a folder of its own.
    """

    def make(name: str = "bundle", **changes: Any) -> Bundle:
        defaults = {"span": SteeringSpan.EVERY_TOKEN, "probes": {"h": (2,), "answer_h": (4,)}}
        described = manifest(**{**defaults, **changes})
        weight = np.ones(described.model.hidden_size, dtype=np.float32)
        bundle_writer.write(
            tmp_path / name,
            described,
            vectors=directions(described, np.random.default_rng(7)),
            probes={probe: (weight, 0.0) for probe in described.probes},
            card="# Card\n",
        )
        return load(tmp_path / name)

    return make
