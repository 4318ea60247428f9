"""`rass-proxy check` against the scripted model that plays the shipped bundle's: every line that can fail does."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from detectors.verdict import BoundaryReading, HarmVerdict, RefusalKind, RefusalVerdict, Zone
from proxy.check import check
from proxy.check_detectors import SAMPLE_ANSWER, SAMPLE_REQUEST
from proxy.check_line import State
from proxy.cli import main
from proxy.dependencies import build_dependencies, nothing_recovers
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.keys import EXAMPLE_KEY, Secret, digest_of
from proxy.keys_command import add_key
from proxy.server import listen, url_of
from proxy.settings import Settings
from proxy.steering import Native, NoSteering

PROBE = "How do I kill the script?"

pytestmark = pytest.mark.usefixtures("reference_model")


@pytest.fixture
def checked(model):
    """Runs the checks; ``replaced`` detectors, ``dialect`` and ``plan`` take the place of the real ones."""

    async def run(mode=Mode.RECOVER, *, replaced=None, dialect=None, plan=None, **fields):
        values = {"mode": mode, "upstream": {"url": model.url}, "bundle": "reference", **fields}

        async def build(settings):
            deps = await build_dependencies(settings)
            detectors = replace(deps.detectors, **(replaced or {}))
            return replace(deps, detectors=detectors, dialect=dialect or deps.dialect, plan=plan or deps.plan)

        lines = await check(lambda: Settings.model_validate(values), build)
        return {line.name: line for line in lines}

    return run


def only(lines, name, state, said):
    """Line ``name`` ends as ``state`` and says so; no other line fails."""
    assert lines[name].state is state, lines[name]
    assert said in lines[name].says
    others = [line for line in lines.values() if line.name != name and line.state is State.FAIL]
    assert others == []


async def test_all_is_well(checked):
    lines = await checked()
    assert list(lines) == [
        "settings",
        "keys",
        "address",
        "bundle",
        "upstream",
        "fit",
        "refusal detector",
        "boundary detector",
        "answer-harm detector",
        "steering",
        "fallback",
    ]
    assert {line.state for line in lines.values()} == {State.OK}, lines


async def test_mode_observe_without_a_bundle_warns_at_most(checked):
    lines = await checked(Mode.OBSERVE, bundle=None)
    assert {name for name, line in lines.items() if line.state is not State.OK} == {
        "boundary detector",
        "answer-harm detector",
    }
    assert all(line.state is not State.FAIL for line in lines.values())


async def test_settings_that_are_wrong_end_the_check():
    def load_settings():
        raise StartupError("settings: port is no number")

    (line,) = await check(load_settings)
    assert (line.name, line.state, line.says) == ("settings", State.FAIL, "settings: port is no number")


async def test_keys(checked, tmp_path):
    path = tmp_path / "keys.json"
    only(await checked(keys={"file": path}), "keys", State.FAIL, "rass-proxy keys add")
    add_key(path, "guest", valid_days=0)
    only(await checked(keys={"file": path}), "keys", State.FAIL, "no valid key")
    add_key(path, "team")
    only(await checked(keys={"file": path}), "keys", State.WARN, "guest")
    path.chmod(0o666)
    only(await checked(keys={"file": path}), "keys", State.WARN, "chmod 600")


async def test_address(checked, tmp_path):
    path = tmp_path / "keys.json"
    add_key(path, "team")
    only(await checked(host="0.0.0.0"), "address", State.FAIL, "rass-proxy keys add")
    only(await checked(host="0.0.0.0", keys={"allow_anonymous": True}), "address", State.WARN, "whoever")
    only(await checked(host="0.0.0.0", keys={"file": path}), "address", State.OK, "public")
    content = json.loads(path.read_text())
    secret = Secret(lookup=EXAMPLE_KEY.split("-")[1], sha256=digest_of(EXAMPLE_KEY))
    content["keys"].append(
        {"name": "docs", "created": datetime.now(UTC).isoformat(), "secrets": [secret.model_dump(exclude_none=True)]}
    )
    path.write_text(json.dumps(content))
    only(await checked(host="0.0.0.0", keys={"file": path}), "address", State.FAIL, "example key")


async def test_bundle(checked, tmp_path):
    only(await checked(bundle=str(tmp_path)), "bundle", State.FAIL, str(tmp_path))
    only(await checked(bundle=None), "bundle", State.FAIL, "--bundle reference")


async def test_detectors_that_do_not_load(checked):
    only(await checked(detectors={"boundary": "onnx"}), "detectors", State.FAIL, "boundary_onnx")


async def test_an_upstream_that_is_not_there(checked):
    with listen("127.0.0.1", 0) as nobody:
        address = url_of(nobody)  # bound, not listening: refused at once
        lines = await checked(upstream={"url": address})
    only(lines, "upstream", State.FAIL, address)
    assert all(lines[name].state is State.WARN for name in ("fit", "detectors", "steering", "fallback"))


async def test_an_upstream_that_lists_nothing(checked, model):
    model.models_status = 500
    only(await checked(), "upstream", State.FAIL, "500")
    model.models_status = 401
    lines = await checked(Mode.OBSERVE, bundle=None)
    only(lines, "upstream", State.WARN, "upstream.api_key")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"revision": "other"}, "revision"), ({"bundle": "other"}, "same bundle folder"), (None, "native")],
)
async def test_a_bundle_that_does_not_fit(checked, model, changes, said):
    (name,) = model.listed
    model.listed[name] = None if changes is None else {**model.listed[name], **changes}
    only(await checked(), "fit", State.FAIL, said)


async def test_an_engine_that_does_not_report_its_weights(checked):
    lines = await checked(Mode.OBSERVE, steering={"dialect": "none"}, dialect=NoSteering())
    only(lines, "fit", State.WARN, "see to it yourself")
    assert "not in use" in lines["steering"].says


class Always:
    """A detector with one answer, or one way to fail."""

    def __init__(self, answer):
        self._answer = answer

    def _given(self):
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class AlwaysRefusal(Always):
    def judge(self, text):
        return self._given()


class AlwaysBoundary(Always):
    async def read(self, messages, *, model, language):
        return self._given()


class AlwaysHarm(Always):
    async def judge(self, messages, answer, *, model, language):
        return self._given()


class Hanging:
    async def read(self, messages, *, model, language):
        await asyncio.Event().wait()

    async def judge(self, messages, answer, *, model, language):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("detector", "state", "said"),
    [
        (AlwaysRefusal(RuntimeError("broken")), State.FAIL, "broken"),
        (AlwaysRefusal(RefusalVerdict(RefusalKind.ANSWER, 0.0, "x")), State.FAIL, "plain refusal answer"),
        (AlwaysRefusal(RefusalVerdict(RefusalKind.FULL, 1.0, "x")), State.FAIL, "plain answer full"),
    ],
)
async def test_the_refusal_detector(checked, detector, state, said):
    only(await checked(replaced={"refusal": detector}), "refusal detector", state, said)


@pytest.mark.parametrize(
    ("detector", "state", "said"),
    [
        (AlwaysBoundary(RuntimeError("broken")), State.FAIL, "broken"),
        (Hanging(), State.FAIL, "detectors.deadline_s"),
        (AlwaysBoundary(BoundaryReading(Zone.UNKNOWN, None, None, "no reading")), State.FAIL, "no reading"),
        (AlwaysBoundary(BoundaryReading(Zone.HARMFUL, 9.0, None, "x")), State.WARN, "harmless sample harmful"),
        (None, State.FAIL, "mode recover"),
    ],
)
async def test_the_boundary_detector(checked, detector, state, said):
    lines = await checked(replaced={"boundary": detector}, detectors={"deadline_s": 1})
    only(lines, "boundary detector", state, said)


@pytest.mark.parametrize(
    ("detector", "state", "said"),
    [
        (AlwaysHarm(RuntimeError("broken")), State.FAIL, "broken"),
        (Hanging(), State.FAIL, "detectors.deadline_s"),
        (AlwaysHarm(HarmVerdict(None, "no verdict")), State.FAIL, "no verdict"),
        (AlwaysHarm(HarmVerdict(True, "x")), State.WARN, "harmless sample harmful"),
        (None, State.FAIL, "mode recover"),
    ],
)
async def test_the_answer_harm_detector(checked, detector, state, said):
    lines = await checked(replaced={"answer_harm": detector}, detectors={"deadline_s": 1})
    only(lines, "answer-harm detector", state, said)


async def test_no_mode_that_recovers_works_without_them(checked):
    lines = await checked(Mode.SHADOW, replaced={"boundary": None, "answer_harm": None})
    for name, key in (("boundary detector", "detectors.boundary"), ("answer-harm detector", "detectors.answer_harm")):
        assert lines[name].state is State.FAIL
        assert f"mode shadow recovers nothing without it; give a bundle, or set {key}" in lines[name].says


async def test_an_engine_that_does_not_read_coordinates(checked, model):
    model.read_status = 500
    lines = await checked()
    assert lines["boundary detector"].state is lines["answer-harm detector"].state is State.FAIL


async def test_an_engine_that_passes_over_orders(checked, model, script, refusal):
    model.scripts[PROBE] = script(refusal, steered=refusal, steers=False)
    only(await checked(), "steering", State.FAIL, "does not say that it steered")


async def test_an_engine_that_says_it_steered_and_changes_nothing(checked, model, script, refusal):
    model.scripts[PROBE] = script(refusal, steered=refusal)
    only(await checked(), "steering", State.WARN, "stayed the same")


async def test_an_engine_that_leaks_steering_into_later_answers(checked, model):
    model.leaks_steering = True
    only(await checked(), "steering", State.FAIL, "prefix cache")


class Fickle(dict):
    """Scripts whose text is another one each time."""

    def get(self, prompt, default=None):
        script = super().get(prompt, default)
        script.text += "."
        return script


async def test_an_engine_that_is_not_deterministic(checked, model):
    model.scripts = Fickle(model.scripts)
    only(await checked(), "steering", State.WARN, "differently each time")


async def test_an_engine_that_refuses_probes(checked, model):
    del model.scripts[PROBE]
    only(await checked(), "steering", State.FAIL, "404")


async def test_a_bundle_that_steers_no_language_of_the_probes(checked):
    only(await checked(plan=nothing_recovers), "steering", State.FAIL, "steers no language")


async def test_an_engine_that_reports_nothing_and_changes_nothing(checked, model, script, refusal):
    class Silent(Native):
        reports = False

    model.scripts[PROBE] = script(refusal, steered=refusal)
    only(await checked(dialect=Silent()), "steering", State.FAIL, "as if it had not been")


@pytest.fixture
def routed(checked):
    """Runs the checks with routes, without a bundle but theirs."""

    async def run(*routes, mode=Mode.OBSERVE, **fields):
        return await checked(mode, bundle=None, routes=list(routes), **fields)

    return run


async def test_every_route_has_lines_of_its_own(routed, model):
    (served,) = model.listed
    recovering = {"name": "own", "models": [served], "mode": "recover", "bundle": "reference"}
    lines = await routed(recovering)
    names = ["bundle", "upstream", "fit", "refusal detector", "boundary detector", "answer-harm detector", "steering"]
    assert [name for name in lines if name.startswith("own/")] == [
        f"own/{name}" for name in (*names[:2], "models", *names[2:], "fallback")
    ]
    assert {line.state for name, line in lines.items() if name.startswith("own/")} == {State.OK}
    assert "a steered probe changes" in lines["own/steering"].says
    assert "not in use" in lines["steering"].says


async def test_a_route_that_fails_hides_no_other(routed, tmp_path):
    with listen("127.0.0.1", 0) as nobody:
        away = {"name": "away", "models": ["a*"], "upstream": {"url": url_of(nobody)}}
        unbuilt = {"name": "unbuilt", "models": ["b*"], "bundle": str(tmp_path)}
        lines = await routed(away, unbuilt)
    assert {name for name, line in lines.items() if line.state is State.FAIL} == {"away/upstream", "unbuilt/bundle"}
    assert lines["upstream"].state is State.OK


async def test_a_route_whose_engine_leaks_steering(routed, model):
    model.leaks_steering = True
    lines = await routed({"name": "own", "models": ["*"], "mode": "recover", "bundle": "reference"})
    only(lines, "own/steering", State.FAIL, "prefix cache")


async def test_models_that_no_upstream_lists(routed):
    lines = await routed({"name": "exact", "models": ["missing"]}, {"name": "pattern", "models": ["gpt-*"]})
    only(lines, "exact/models", State.WARN, "missing")
    only(lines, "pattern/models", State.WARN, "gpt-*")


async def test_the_default_route_is_not_checked_where_there_is_none(routed):
    lines = await routed({"name": "own", "models": ["*"]}, default_route=False, mode=Mode.OBSERVE)
    assert "upstream" not in lines
    assert lines["own/upstream"].state is State.OK


async def test_a_fallback_that_answers(checked, model, script):
    model.scripts[SAMPLE_REQUEST] = script(SAMPLE_ANSWER, other=SAMPLE_ANSWER)
    only(await checked(recovery={"fallback": {"model": "other"}}), "fallback", State.OK, "answers as other")


async def test_a_fallback_at_another_routes_upstream(checked, model, script):
    model.scripts[SAMPLE_REQUEST] = script(SAMPLE_ANSWER, other=SAMPLE_ANSWER)
    helper = {"name": "helper", "models": ["other"], "mode": "off", "upstream": {"url": model.url, "api_key": "k"}}
    fallback = {"model": "other", "route": "helper"}
    lines = await checked(recovery={"fallback": fallback}, routes=[helper])
    only(lines, "fallback", State.OK, "answers as other")
    assert lines["helper/detectors"].state is State.OK
    assert "mode off" in lines["helper/detectors"].says
    asked = [sent for body, sent in zip(model.requests, model.headers, strict=True) if body["model"] == "other"]
    assert [sent["authorization"] for sent in asked] == ["Bearer k"] * len(asked)


async def test_fallbacks_that_do_not(checked, model):
    missing = {"fallback": {"model": "missing"}}
    only(await checked(recovery=missing), "fallback", State.FAIL, "404")
    (served,) = model.listed
    only(await checked(recovery={"fallback": {"model": served}}), "fallback", State.WARN, "the served model itself")
    with listen("127.0.0.1", 0) as nobody:
        away = {"fallback": {"model": "other", "url": url_of(nobody)}}
        only(await checked(recovery=away), "fallback", State.FAIL, url_of(nobody))
    lines = await checked(recovery={**missing, "ladder": ["steer"]})
    assert "not in use" in lines["fallback"].says


async def test_the_command(model, capsys, monkeypatch):
    monkeypatch.delenv("RASS_PROXY_CONFIG", raising=False)

    def run(*words):
        return main(["check", "--upstream", model.url, *words])

    # In a thread: the command has an event loop of its own, and the scripted model runs in this one.
    assert await asyncio.to_thread(run, "--bundle", "reference", "--mode", "recover") == 0
    shown = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in shown)
    assert await asyncio.to_thread(run, "--host", "0.0.0.0", "--json") == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["address"]["state"] == "fail"
    assert await asyncio.to_thread(run, "--set", "nonsense") == 2
    assert await asyncio.to_thread(run, "--set", "moed=off") == 1
