"""A line of ``rass-proxy check``: steering acts where it is asked for, and nowhere else.

The same prompt is sent greedily four times: plain, plain, steered, plain. Engines pass over orders that they do not
understand in silence, and one that shares a steered prefix answers differently afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from detectors.bundle import Steering
from detectors.verdict import Zone
from proxy.answers import ChatAnswer, read_choices, together
from proxy.check_line import Line, fail, ok, warn
from proxy.demo import OVER_REFUSED, demo_requests
from proxy.dependencies import Dependencies
from proxy.errors import UpstreamError
from proxy.settings import Settings
from proxy.upstream.protocol import read_up_to
from proxy.wires.chat import CHAT

_NAME = "steering"
_MAX_TOKENS = 48
_MAX_BYTES = 1_048_576


class _NoAnswer(Exception):
    """A probe got no completion; the message says what came instead."""


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
    payload: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": _MAX_TOKENS,
    }
    try:
        first = await _ask(settings, deps, payload)
        second = await _ask(settings, deps, payload)
        steered = await _ask(settings, deps, payload, steering)
        after = await _ask(settings, deps, payload)
    except (UpstreamError, _NoAnswer) as error:
        return fail(_NAME, f"a probe failed: {error}")
    if not deps.dialect.did_steer(steered):
        return fail(
            _NAME,
            f"the engine was asked for vector {steering.vector_id} and does not say that it steered; check that it has "
            "this bundle loaded and that steering.dialect is its own",
        )
    if first.texts != second.texts:
        return warn(
            _NAME,
            "the engine answers the same greedy request differently each time, so that nobody can tell whether "
            "steering leaves traces; serve it deterministically to see",
        )
    if after.texts != second.texts:
        return fail(
            _NAME,
            "an unsteered answer changed after a steered one: the engine shares what steered requests computed; turn "
            "its prefix cache off, or set mode to observe",
        )
    if steered.texts == second.texts:
        said = "says that it steered" if deps.dialect.reports else "was asked to steer and does not say whether it did"
        return warn(_NAME, f"the engine {said}, but its answer to {prompt!r} stayed the same")
    return ok(_NAME, "a steered probe changes, and an unsteered one after it does not")


def _probe(deps: Dependencies) -> tuple[str, Steering] | None:
    """Return a prompt that models over-refuse, in a language that is steered, and how."""
    for request in demo_requests():
        if request.kind == OVER_REFUSED and (steering := deps.plan(request.language, Zone.BENIGN)) is not None:
            return request.prompt, steering
    return None


async def _ask(
    settings: Settings, deps: Dependencies, payload: Mapping[str, object], steering: Steering | None = None
) -> ChatAnswer:
    headers = {"content-type": "application/json"}
    if settings.upstream.api_key is not None:
        headers["authorization"] = f"Bearer {settings.upstream.api_key.get_secret_value()}"
    upstream = deps.upstream
    if steering is not None:
        steered = deps.dialect.steered(payload, steering)
        if steered is None:
            raise _NoAnswer(f"the engine cannot be told to steer with {steering.vector_id!r}")
        payload, headers = steered.payload, {**headers, **steered.headers}
        upstream = deps.pair or deps.upstream
    body = json.dumps(payload).encode()
    response = await upstream.send("POST", CHAT.path, headers=headers, body=body, purpose="check")
    try:
        content, whole = await read_up_to(response, _MAX_BYTES)
    finally:
        await response.close()
    choices = read_choices(content, CHAT.gather(payload)) if whole and response.status == 200 else {}
    if not choices:
        raise _NoAnswer(
            f"{upstream.address} answered {CHAT.path} with status {response.status}: "
            f"{content[:200].decode(errors='replace').strip()}"
        )
    return together(choices)
