"""A line of ``rass-proxy check``: steering acts where it is asked for, and nowhere else.

The same prompt is sent greedily four times: plain, plain, steered, plain. Engines pass over orders that they do not
understand in silence, and one that shares a steered prefix answers differently afterwards.
"""

from __future__ import annotations

import uuid

from detectors.bundle import Steering
from detectors.verdict import Zone
from proxy.canary_watch import engine_probe
from proxy.check_line import Line, fail, ok, warn
from proxy.demo import OVER_REFUSED, demo_requests
from proxy.dependencies import Dependencies
from proxy.engine_probe import NoAnswer
from proxy.settings import Settings

_NAME = "steering"
_MAX_TOKENS = 48


async def steering_line(settings: Settings, deps: Dependencies, model: str) -> Line:
    """Probe the engine through its dialect; ``model`` is the served model to ask for."""
    if not deps.dialect.can_steer or deps.bundle is None:
        return ok(_NAME, f"not in use (mode {settings.mode}, dialect {settings.steering.dialect})")
    chosen = _probe(deps)
    if chosen is None:
        return fail(
            _NAME, f"bundle {deps.bundle.path} steers no language of the probes; build it for one of en, de, es, zh"
        )
    prompt, steering = chosen
    probe = engine_probe(settings, deps, max_tokens=_MAX_TOKENS, purpose="check")
    # Two salts: the plain answer after the steered one must not be served from what the first ones left.
    one, other = uuid.uuid4().hex, uuid.uuid4().hex
    try:
        first = await probe.plain(model, prompt, one)
        second = await probe.plain(model, prompt, one)
        steered = await probe.steered(model, prompt, other, steering)
        after = await probe.plain(model, prompt, other)
    except NoAnswer as error:
        return fail(_NAME, f"a probe failed: {error}")
    if deps.dialect.reports and not deps.dialect.did_steer(steered.answer):
        return fail(
            _NAME,
            f"the engine was asked for vector {steering.vector_id} and does not say that it steered; check that it has "
            "this bundle loaded and that steering.dialect is its own",
        )
    if first.text != second.text:
        return warn(
            _NAME,
            "the engine answers the same greedy request differently each time, so that nobody can tell whether "
            "steering leaves traces; serve it deterministically to see",
        )
    if after.text != second.text:
        return fail(
            _NAME,
            "an unsteered answer changed after a steered one: the engine shares what steered requests computed; turn "
            "its prefix cache off, or set mode to observe",
        )
    if not probe.acted(second, steered, after):
        return fail(
            _NAME,
            f"the engine was asked for vector {steering.vector_id} and answered {prompt!r} as if it had not been; "
            "check that it runs with its steering plugin and this bundle's vectors (docs/engines.md)",
        )
    if steered.text == second.text:
        return warn(
            _NAME,
            f"steering acts, but the answer to {prompt!r} stayed the same word for word; look at the strengths in "
            f"{deps.bundle.path}, and whether this model refuses the prompt at all",
        )
    return ok(_NAME, "a steered probe changes, and an unsteered one after it does not")


def _probe(deps: Dependencies) -> tuple[str, Steering] | None:
    """Return a prompt that models over-refuse, in a language that is steered, and how."""
    for request in demo_requests():
        if request.kind == OVER_REFUSED and (steering := deps.plan(request.language, Zone.BENIGN)) is not None:
            return request.prompt, steering
    return None
