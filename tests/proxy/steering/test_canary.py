"""The canary: it sees an engine that stops steering, or steers whom it should not, and the mode follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from detectors.bundle import Steering
from detectors.verdict import Zone
from proxy.app import create_app
from proxy.canary import CanaryReport, CanaryResult, strongest
from proxy.canary_watch import CanaryWatch, build_canary
from proxy.dependencies import Dependencies, build_dependencies
from proxy.exchange import Mode
from proxy.metrics import Metrics
from proxy.server import listen, running_app, url_of
from proxy.settings import Settings
from proxy.signals import Detectors
from proxy.steering.choice import choose_dialect, expressed_plan
from proxy.upstream.http import HttpUpstream

NEVER_AGAIN = {"interval_s": 3600}


class Answers:
    """Takes every answer for one."""

    def judge(self, text):
        raise AssertionError("no request of these tests is judged")


@pytest.fixture
async def build(engine, bundle) -> AsyncIterator:
    """Builds settings and dependencies towards the engine."""
    made = []

    def make(mode: str = "recover", dialect: str = "hotwire", **groups) -> tuple[Settings, Dependencies]:
        canary = {**NEVER_AGAIN, "time_limit_s": 5, **groups.pop("canary", {})}
        steering = {"dialect": dialect, **groups.pop("steering", {})}
        values = {"mode": mode, "upstream": {"url": engine.url}, "steering": steering, "canary": canary, **groups}
        settings = Settings.model_validate(values)
        metrics = Metrics()
        spoken = choose_dialect(settings, bundle)
        deps = Dependencies(
            upstream=HttpUpstream(settings.upstream, metrics),
            metrics=metrics,
            detectors=Detectors(
                refusal=Answers(), head=None, language=lambda text: None, boundary=None, answer_harm=None
            ),
            dialect=spoken,
            plan=expressed_plan(bundle, spoken),
            bundle=bundle,
        )
        made.append(deps)
        return settings, deps

    yield make
    for deps in made:
        await deps.close()


async def probe(build, **groups) -> CanaryReport:
    canary = build_canary(*build(**groups))
    assert canary is not None
    return await canary.canary_passes()


async def test_an_engine_that_steers_passes(engine, bundle, build):
    report = await probe(build)
    assert report.passed, report
    assert len(engine.plain) == 2  # before and after
    assert len(engine.requests) == 2 + len(bundle.manifest.vectors)  # each vector once, at its greatest strength
    assert {request["temperature"] for request in engine.requests} == {0}
    salts = [request["cache_salt"] for request in engine.requests]
    assert len(set(salts)) == len(salts)


async def test_it_passes_again_and_takes_no_more_slots(engine, build):
    settings, deps = build()
    before = deps.dialect.book.taken
    canary = build_canary(settings, deps)
    for _ in range(3):
        assert (await canary.canary_passes()).passed
    assert deps.dialect.book.taken == before


async def test_a_change_in_log_probabilities_alone_shows_that_steering_acts(engine, build):
    engine.acts_on_text = False
    assert (await probe(build)).passed


async def test_without_text_or_log_probabilities_nothing_shows_it(engine, build):
    engine.acts_on_text = engine.gives_logprobs = False
    assert (await probe(build)).result is CanaryResult.NOT_STEERED


@pytest.mark.parametrize("lost", ["refusal-en", "refusal-zh"])
async def test_one_vector_that_is_not_loaded_is_seen(engine, bundle, build, lost):
    engine.loaded.remove(bundle.vector_id(lost))
    report = await probe(build)
    assert report.result is CanaryResult.NOT_STEERED
    assert lost in report.why


async def test_slots_that_somebody_else_took_are_seen(engine, build):
    engine.slots = 1
    assert (await probe(build)).result is CanaryResult.NOT_STEERED


async def test_steering_that_reaches_a_plain_request_is_seen(engine, build, monkeypatch):
    # As if the proxy forgot to salt: the steered prefix lies under the client's own salt.
    from proxy.steering import hotwire

    monkeypatch.setattr(hotwire, "steered_salt", lambda client_salt, *_rest: client_salt)
    assert (await probe(build)).result is CanaryResult.PLAIN_CHANGED


async def test_an_engine_that_refuses_steered_requests_fails(engine, build):
    engine.steered_status = 400
    report = await probe(build)
    assert report.result is CanaryResult.STEERED_FAILED
    assert "400" in report.why


@pytest.mark.parametrize("trouble", ["status", "no model", "hangs", "away"])
async def test_what_answers_no_plain_request_either_says_nothing_about_steering(engine, build, trouble):
    groups = {}
    if trouble == "status":
        engine.status = engine.steered_status = 500
    elif trouble == "no model":
        engine.models = ()
    elif trouble == "hangs":
        engine.hang = asyncio.Event()
        groups["canary"] = {"time_limit_s": 0.2}
    else:
        groups["upstream"] = {"url": "http://127.0.0.1:9"}
    report = await probe(build, **groups)
    assert report.result is CanaryResult.UNKNOWN
    assert not report.passed
    assert not report.failed


@pytest.mark.parametrize(
    "groups",
    [
        {"mode": "off"},
        {"mode": "observe"},
        {"dialect": "none"},
        {"canary": {"enabled": False}},
    ],
)
async def test_it_never_runs_where_nothing_steers(engine, build, groups):
    assert build_canary(*build(**groups)) is None


def test_each_vector_is_tried_at_its_greatest_strength():
    steerings = {
        ("en", Zone.BENIGN): Steering("a", 1.0),
        ("en", Zone.BAND): Steering("a", -2.0),
        ("de", Zone.BENIGN): Steering("b", 0.5),
    }
    found = strongest(lambda language, zone: steerings.get((language, zone)), ("en", "de", "fr"))
    assert found == (Steering("a", -2.0), Steering("b", 0.5))


class Scripted:
    """A canary whose reports are given."""

    def __init__(self, *results: CanaryResult) -> None:
        self.results = list(results)

    async def canary_passes(self) -> CanaryReport:
        if not self.results:
            await asyncio.Event().wait()
        return CanaryReport(self.results.pop(0), "because")


F, P, U = CanaryResult.NOT_STEERED, CanaryResult.PASSED, CanaryResult.UNKNOWN


@pytest.mark.parametrize(
    ("results", "failing"),
    [
        ([], False),
        ([F, F], False),
        ([F, F, F], True),
        ([F, F, P, F, F], False),  # in a row
        ([F, U, F, U, F], True),  # what tells nothing changes nothing
        ([F, F, F, U], True),
        ([F, F, F, P], False),
        ([U, U, U, U], False),
    ],
)
def test_the_mode_falls_back_after_failures_in_a_row_and_returns_after_one_success(results, failing):
    metrics = Metrics()
    watch = CanaryWatch(Settings().canary, Scripted(), metrics)
    for result in results:
        watch.record(CanaryReport(result, "because"))
    assert watch.failing is failing
    assert metrics.registry.get_sample_value("rass_canary_failing") == failing
    for mode in Mode:
        assert watch.lowered(mode) is (mode.lowered_to(Mode.OBSERVE) if failing else mode)
    for result in set(results):
        counted = metrics.registry.get_sample_value("rass_canary_runs_total", {"result": result})
        assert counted == results.count(result)


def test_the_gauge_shows_any_route_that_fails_until_it_ends_or_passes():
    metrics = Metrics()
    watches = [CanaryWatch(Settings().canary, Scripted(), metrics, route=route) for route in ("one", "two")]
    for watch in watches:
        for _ in range(3):
            watch.record(CanaryReport(F, "because"))
    watches[0].record(CanaryReport(P, "because"))
    assert (watches[0].failing, watches[1].failing) == (False, True)
    assert metrics.registry.get_sample_value("rass_canary_failing") == 1
    watches[1].record(CanaryReport(P, "because"))
    assert metrics.registry.get_sample_value("rass_canary_failing") == 0


async def test_a_watch_that_ends_holds_no_mode_down():
    metrics = Metrics()
    watch = CanaryWatch(Settings().canary, Scripted(F, F, F), metrics)
    for _ in range(3):
        watch.record(CanaryReport(F, "because"))
    watch.start()
    await watch.stop()
    assert metrics.registry.get_sample_value("rass_canary_failing") == 0


@pytest.mark.parametrize(("steers", "held"), [(("0123", "http://a"), True), (("4567", "http://a"), False)])
async def test_a_watch_goes_on_from_the_former_one_where_it_watches_the_same(steers, held):
    metrics = Metrics()
    former = CanaryWatch(Settings().canary, Scripted(), metrics, steers=("0123", "http://a"))
    former.start()
    for _ in range(3):
        former.record(CanaryReport(F, "because"))
    newest = CanaryWatch(Settings().canary, Scripted(), metrics, steers=steers, former=former)
    assert metrics.registry.get_sample_value("rass_canary_failing") == 1
    newest.start()
    assert (newest.failing, newest.last is not None) == (held, held)
    assert metrics.registry.get_sample_value("rass_canary_failing") == held
    await former.stop()
    assert metrics.registry.get_sample_value("rass_canary_failing") == held
    await newest.stop()
    assert metrics.registry.get_sample_value("rass_canary_failing") == 0


async def test_a_ladder_without_the_step_needs_no_canary(build):
    assert build_canary(*build(recovery={"ladder": ("clarify",)})) is None


async def test_a_fault_of_the_probe_does_not_end_the_watch(eventually, caplog):
    class Faulty(Scripted):
        async def canary_passes(self) -> CanaryReport:
            if len(self.results) == 2:
                self.results.pop()
                raise RuntimeError("a fault")
            return await super().canary_passes()

    settings = Settings.model_validate({"canary": {"interval_s": 0.01}}).canary
    watch = CanaryWatch(settings, Faulty(P, P), Metrics())
    watch.start()
    await eventually(lambda: watch.last is not None and watch.last.passed)
    await watch.stop()
    assert "could not run" in caplog.text


async def test_stopping_in_the_middle_of_a_probe_leaves_nothing_behind(engine, build, eventually):
    engine.hang = asyncio.Event()
    settings, deps = build()
    watch = CanaryWatch(settings.canary, build_canary(settings, deps), deps.metrics)
    watch.start()
    await eventually(lambda: bool(engine.requests))
    await watch.stop()
    assert not [task for task in asyncio.all_tasks() if "_watch" in repr(task.get_coro())]
    assert watch.last is None


@asynccontextmanager
async def running(settings: Settings, deps: Dependencies):
    with listen("127.0.0.1", 0) as listener:
        async with (
            running_app(create_app(settings, deps), listener, drain_timeout_s=1),
            aiohttp.ClientSession() as session,
        ):
            yield url_of(listener), session


async def readyz(url: str, session: aiohttp.ClientSession) -> dict:
    async with session.get(f"{url}/readyz") as response:
        return await response.json()


async def test_the_running_proxy_falls_back_says_so_and_returns(engine, bundle, build, eventually, caplog):
    caplog.set_level(logging.INFO)
    engine.loaded.clear()
    settings, deps = build(canary={"interval_s": 0.02, "failures": 2})
    async with running(settings, deps) as (url, session):
        await eventually(lambda: deps.metrics.registry.get_sample_value("rass_canary_failing") == 1)
        told = await readyz(url, session)
        assert (told["status"], told["mode"], told["configured_mode"]) == ("ready", "observe", "recover")
        assert told["canary"]["failing"] is True
        assert told["canary"]["last"] == "not_steered"
        assert "falls back to observe" in caplog.text

        engine.loaded |= {bundle.vector_id(name) for name in bundle.manifest.vectors}
        await eventually(lambda: deps.metrics.registry.get_sample_value("rass_canary_failing") == 0)
        told = await readyz(url, session)
        assert (told["mode"], told["canary"]["failing"]) == ("recover", False)
        assert "back to the configured mode" in caplog.text
    assert settings.canary.prompt not in caplog.text


async def test_each_route_has_a_canary_of_its_own(engine, bundle, judged, eventually):
    engine.loaded.clear()
    canary = {"interval_s": 0.02, "failures": 2}
    steered = {"name": "steered", "models": ["tiny"], "mode": "recover", "bundle": str(bundle.path), **judged}
    settings = Settings.model_validate(
        {"upstream": {"url": engine.url}, "steering": {"dialect": "hotwire"}, "canary": canary, "routes": [steered]}
    )
    deps = await build_dependencies(settings)
    async with running(settings, deps) as (url, session):
        await eventually(lambda: deps.metrics.registry.get_sample_value("rass_canary_failing") == 1)
        told = (await readyz(url, session))["routes"]
        assert (told["steered"]["mode"], told["steered"]["configured_mode"]) == ("observe", "recover")
        assert told["steered"]["canary"]["failing"] is True
        assert "canary" not in told["default"]


async def test_requests_do_not_wait_for_a_canary_that_hangs(engine, build, eventually):
    settings, deps = build(mode="recover", canary={"time_limit_s": 120})
    engine.hang = asyncio.Event()
    async with running(settings, deps) as (url, session):
        await eventually(lambda: bool(engine.requests))
        told = await readyz(url, session)  # answered while the probe hangs, and so is a request
        assert told["canary"]["last"] is None
        async with asyncio.timeout(60):
            body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
            answer = asyncio.create_task(
                session.post(f"{url}/v1/chat/completions", json=body, headers={"x-rass-mode": "off"})
            )
            await eventually(lambda: any(one["messages"][-1]["content"] == "hello" for one in engine.requests))
            engine.hang.set()
            async with await answer as response:
                assert response.status == 200


async def test_a_plain_request_keeps_its_clients_salt_byte_for_byte(engine, build):
    settings, deps = build(canary={"enabled": False})
    async with running(settings, deps) as (url, session):
        body = b'{"model": "tiny",  "cache_salt":"mine","messages":[{"role":"user","content":"hi"}]}'
        headers = {"content-type": "application/json", "x-rass-mode": "off"}
        async with session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as response:
            assert response.status == 200
        assert engine.requests[-1]["cache_salt"] == "mine"
        assert int(engine.headers[-1]["content-length"]) == len(body)
