"""One proxy before several upstreams: which route serves a model, and what each route has of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from proxy.app import create_app
from proxy.dependencies import build_dependencies, load_bundle
from proxy.errors import ModelNotFound, StartupError
from proxy.router import Route, Router
from proxy.server import listen, running_app, running_server, url_of
from proxy.settings import Settings
from proxy.settings.group import revealed
from proxy.settings_sources import load_settings


class Backend:
    """An OpenAI-compatible server that says which one it is, and what it was sent."""

    def __init__(self, name, models):
        self.name = name
        self.models = models
        self.requests = []
        self.keys = []
        self.list_status = 200
        self.url = ""

    async def complete(self, request):
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("authorization"))
        message = {"role": "assistant", "content": f"{self.name} serves {body['model']}"}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    async def list(self, request):
        self.keys.append(request.headers.get("authorization"))
        return web.json_response(
            {"object": "list", "data": [{"id": name, "owned_by": self.name} for name in self.models]},
            status=self.list_status,
        )

    async def one(self, request):
        return web.json_response({"id": request.match_info["model"], "owned_by": self.name})


@pytest.fixture
async def backends(start_server) -> list[Backend]:
    """Two served models: the default one and another."""
    made = [Backend("first", ["a-1", "b-1"]), Backend("second", ["b-1", "b-2", "c-1"])]
    for backend in made:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", backend.complete)
        app.router.add_get("/v1/models", backend.list)
        app.router.add_get("/v1/models/{model}", backend.one)
        backend.url = await start_server(app)
    return made


@pytest.fixture
async def start() -> AsyncIterator:
    """Starts a proxy from settings, with the dependencies that they ask for."""
    async with AsyncExitStack() as stack:

        async def run(**values):
            settings = Settings.model_validate(values)
            deps = await build_dependencies(settings)
            listener = stack.enter_context(listen("127.0.0.1", 0))
            await stack.enter_async_context(running_app(create_app(settings, deps), listener, drain_timeout_s=1))
            session = await stack.enter_async_context(aiohttp.ClientSession(base_url=url_of(listener)))
            return SimpleNamespace(session=session, metrics=deps.metrics)

        yield run


async def ask(proxy, model, headers=None):
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    async with proxy.session.post("/v1/chat/completions", json=body, headers=headers) as response:
        payload = await response.json()
        return response.status, response.headers, payload


def said(payload):
    return payload["choices"][0]["message"]["content"]


async def get(proxy, path, headers=None):
    async with proxy.session.get(path, headers=headers) as response:
        return response.status, await response.json()


def second(backend, **more):
    return {"name": "second", "models": ["b-*", "c-[0-9]"], "upstream": {"url": backend.url, "api_key": "k2"}, **more}


async def test_each_model_is_served_by_its_route(backends, start):
    one, two = backends
    proxy = await start(mode="observe", upstream={"url": one.url}, routes=[second(two, mode="off")])
    assert said((await ask(proxy, "a-1"))[2]) == "first serves a-1"
    status, headers, payload = await ask(proxy, "b-7", {"authorization": "Bearer client"})
    assert (status, said(payload), headers["x-rass-action"]) == (200, "second serves b-7", "off")
    assert two.keys[-1] == "Bearer k2"
    _, headers, _ = await ask(proxy, "a-1", {"authorization": "Bearer client"})
    assert headers["x-rass-action"] == "delivered"
    assert one.keys[-1] == "Bearer client"
    count = proxy.metrics.registry.get_sample_value
    assert count("rass_route_requests_total", {"route": "default"}) == 2
    assert count("rass_route_requests_total", {"route": "second"}) == 1


async def test_a_header_may_only_lower_the_routes_own_mode(backends, start):
    one, two = backends
    proxy = await start(mode="observe", upstream={"url": one.url}, routes=[second(two, mode="off")])
    _, headers, _ = await ask(proxy, "b-1", {"x-rass-mode": "observe"})
    assert headers["x-rass-action"] == "off"


async def test_without_a_default_route_its_mode_needs_nothing(backends, start):
    one, two = backends
    routes = [second(two, mode="observe")]
    # Mode recover asks for a bundle, but no request can come there.
    proxy = await start(mode="recover", upstream={"url": one.url}, routes=routes, default_route=False)
    assert said((await ask(proxy, "b-1"))[2]) == "second serves b-1"


async def test_without_a_default_route_an_unnamed_model_is_not_found(backends, start):
    one, two = backends
    proxy = await start(upstream={"url": one.url}, routes=[second(two)], default_route=False)
    status, _, payload = await ask(proxy, "a-1")
    assert status == 404
    assert (payload["error"]["code"], payload["error"]["param"]) == ("model_not_found", "model")
    assert "'a-1'" in payload["error"]["message"]
    assert one.requests == two.requests == []
    assert (await get(proxy, "/v1/models/a-1"))[0] == 404
    assert said((await ask(proxy, "b-1"))[2]) == "second serves b-1"


async def test_the_lists_of_models_are_merged(backends, start):
    one, two = backends
    proxy = await start(upstream={"url": one.url}, routes=[second(two)])
    _, page = await get(proxy, "/v1/models", {"authorization": "Bearer client"})
    owners = {entry["id"]: entry["owned_by"] for entry in page["data"]}
    assert owners == {"a-1": "first", "b-1": "second", "b-2": "second", "c-1": "second"}
    assert (one.keys, two.keys) == ([None], ["Bearer k2"]), "a client's key must not go to every upstream"
    assert (await get(proxy, "/v1/models/b-2"))[1]["owned_by"] == "second"


async def test_a_route_that_does_not_list_its_models_is_left_out_and_logged(backends, start, caplog):
    one, two = backends
    two.list_status = 401
    proxy = await start(upstream={"url": one.url}, routes=[second(two)])
    _, page = await get(proxy, "/v1/models")
    assert {entry["owned_by"] for entry in page["data"]} == {"first"}
    assert f"route second lists no models: {two.url} answers /v1/models with status 401" in caplog.text


async def test_a_route_that_is_not_there(backends, start):
    one, _ = backends
    with listen("127.0.0.1", 0) as nobody:
        gone = {"name": "gone", "models": ["b-*"], "upstream": {"url": url_of(nobody)}}
        proxy = await start(upstream={"url": one.url}, routes=[gone])
        _, page = await get(proxy, "/v1/models")
        assert [entry["id"] for entry in page["data"]] == ["a-1"]
        status, page = await get(proxy, "/readyz")
        assert (status, page["status"]) == (200, "degraded")
        assert page["routes"]["default"] == {"status": "ready", "mode": "observe", "models": ["a-1", "b-1"]}
        assert page["routes"]["gone"]["status"] == "unavailable"
        assert url_of(nobody) in page["routes"]["gone"]["reason"]
        proxy = await start(upstream={"url": url_of(nobody)}, routes=[gone])
        status, page = await get(proxy, "/readyz")
        assert (status, page["status"]) == (503, "unavailable")
        status, page = await get(proxy, "/v1/models")
        assert (status, page["error"]["code"]) == (502, "upstream_unreachable")


async def test_a_route_that_cannot_start_is_named(backends):
    one, two = backends
    values = {"upstream": {"url": one.url}, "routes": [second(two, mode="recover")]}
    with (
        listen("127.0.0.1", 0) as listener,
        pytest.raises(StartupError, match="route second: mode recover needs a bundle"),
    ):
        async with running_server(Settings.model_validate(values), listener):
            pass


def test_a_route_replaces_whole_tables_and_keeps_the_others():
    settings = Settings.model_validate(
        {
            "bundle": "reference",
            "mode": "recover",
            "upstream": {"url": "http://one", "api_key": "k1"},
            "recovery": {"max_attempts": 7},
            "routes": [
                {"name": "a", "models": ["a"], "upstream": {"url": "http://two"}},
                {"name": "b", "models": ["b"], "mode": "observe", "recovery": {"burst": 3}},
            ],
        }
    )
    a, b = (settings.of_route(route) for route in settings.routes)
    assert (a.upstream.url, a.upstream.api_key, a.bundle) == ("http://two", None, None)
    assert (a.mode, a.recovery.max_attempts) == ("recover", 7)
    assert (b.upstream, b.bundle, b.mode) == (settings.upstream, "reference", "observe")
    assert (b.recovery.burst, b.recovery.max_attempts) == (3, Settings().recovery.max_attempts)


def test_a_key_does_not_go_to_another_upstream_than_the_one_that_it_was_written_beside():
    def of_route(beside, **route):
        values = {
            "upstream": {"url": "http://one", "api_key": "k1"},
            "judge": {"api_key": "for-judge", "benign_below": -1, **beside},
            "steering": {"dialect": "pair", "pair_url": "http://steered"},
            "recovery": {"max_attempts": 7, "fallback": {"model": "m", "api_key": "for-fallback", **beside}},
            "routes": [{"name": "a", "models": ["a"], **route}],
        }
        settings = Settings.model_validate(values)
        own = settings.served()["a"]
        assert (own.judge.benign_below, own.recovery.max_attempts, own.recovery.fallback.model) == (-1, 7, "m")
        assert settings.served()["default"].judge.api_key.get_secret_value() == "for-judge"
        assert (own.steering.pair_url is None) is ("upstream" in route)
        return [revealed(each.api_key) for each in (own.judge, own.recovery.fallback)]

    own = {"url": "http://two"}
    assert of_route({}, upstream=own) == [None, None]
    assert of_route({"url": "http://three"}, upstream=own) == ["for-judge", "for-fallback"]
    assert of_route({}) == ["for-judge", "for-fallback"]
    judge = {"api_key": "mine", "benign_below": -1}
    recovery = {"max_attempts": 7, "fallback": {"model": "m", "api_key": "too"}}
    assert of_route({}, upstream=own, judge=judge, recovery=recovery) == ["mine", "too"]


async def test_a_fallback_is_asked_at_its_routes_upstream(backends):
    one, two = backends
    recovery = {"fallback": {"model": "b-1", "route": "second"}}
    third = {"name": "third", "models": ["t"], "upstream": {"url": one.url}, "recovery": recovery}
    settings = Settings.model_validate({"upstream": {"url": one.url}, "routes": [third, second(two)]})
    deps = await build_dependencies(settings)
    fallback = deps.routes["third"].fallback
    assert (fallback.model, fallback.api_key) == ("b-1", "k2")
    assert fallback.upstream is deps.routes["second"].upstream  # the same connections, bounds and breaker
    assert deps.fallback is deps.routes["second"].fallback is None
    await deps.close()


def test_a_routes_own_settings_keep_the_route_that_it_falls_back_to_whole():
    recovery = {"fallback": {"model": "b", "route": "b"}}
    a = {"name": "a", "models": ["a"], "upstream": {"url": "http://a"}, "mode": "off", "recovery": recovery}
    b = {"name": "b", "models": ["b"]}
    settings = Settings.model_validate({"upstream": {"url": "http://top"}, "routes": [a, b]})
    own = settings.served()["a"]
    assert [route.name for route in own.routes] == ["b"]
    assert own.of_route(own.routes[0]).upstream.url == "http://top"
    assert own.of_route(own.routes[0]).mode == "observe"
    assert settings.served()["default"].routes == ()


def test_a_route_does_not_fall_back_to_itself():
    fallback = {"model": "b", "route": "b"}
    routes = [{"name": "a", "models": ["a"]}, {"name": "b", "models": ["b"]}]
    settings = Settings.model_validate({"recovery": {"max_attempts": 2, "fallback": fallback}, "routes": routes})
    a, b, default = settings.served().values()
    assert a.recovery.fallback.route == default.recovery.fallback.route == "b"
    assert (b.recovery.fallback.model, b.recovery.max_attempts) == (None, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[routes]]\nnmae = 'a'\nmodels = ['a']", r"routes\.0: unknown key 'nmae'.*'name'"),
        ("[[routes]]\nname = 'a'\nmodels = ['a']\n[routes.upstream]\nurll = 'http://x'", r"routes\.0\.upstream.*'url'"),
        ("[[routes]]\nname = 'a'\nmodels = []", r"routes\.0\.models"),
        ("[[routes]]\nname = 'default'\nmodels = ['a']", "'default' is taken twice"),
        ("default_route = false", "no model is served"),
        ("[recovery.fallback]\nmodel = 'x'\nroute = 'a'", "there are: none"),
        ("[recovery.fallback]\nroute = 'a'", "needs a model"),
        ("[recovery.fallback]\nmodel = 'x'\nroute = 'a'\nurl = 'http://x'", "leave out url"),
        ("[upstream]\nkind = 'litellm'", "needs a provider"),
        ("[upstream]\nprovider = 'gemini'", "kind litellm only"),
        ("[upstream]\nkind = 'litellm'\nprovider = 'azure'", "provider_url"),
        ("[upstream]\nkind = 'litellm'\nprovider = 'gemnii'", "upstream.provider"),
    ],
)
def test_a_bad_route_or_provider_says_what_is_wrong(tmp_path, text, expected):
    path = tmp_path / "proxy.toml"
    path.write_text(text)
    with pytest.raises(StartupError, match=expected):
        load_settings({}, path)


def test_a_routes_key_is_not_quoted(tmp_path):
    path = tmp_path / "proxy.toml"
    path.write_text("[[routes]]\nname = 'a'\nmodels = ['a']\n[routes.upstream]\napi_key = 123456789")
    with pytest.raises(StartupError) as caught:
        load_settings({}, path)
    assert "123456789" not in str(caught.value)


def test_a_provider_has_no_activations_to_read():
    upstream = {"kind": "litellm", "provider": "gemini"}
    with pytest.raises(StartupError, match="gives no activations"):
        load_bundle(Settings.model_validate({"upstream": upstream, "bundle": "reference"}))


NAMES = st.text("ab-1", min_size=1, max_size=4)


def named(name, patterns):
    nothing: Any = None  # a route that is only chosen needs nothing to serve with
    return Route(name, tuple(patterns), Settings(), nothing, nothing, nothing, nothing, nothing)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=2), max_size=4), NAMES)
def test_the_first_route_that_names_a_model_serves_it(patterns, model):
    routes = [named(str(position), each) for position, each in enumerate(patterns)]
    default = named("default", ())
    expected = next((route for route in routes if model in route.patterns), None)
    assert Router(routes, default).route(model) is (expected or default)
    if expected is None:
        with pytest.raises(ModelNotFound):
            Router(routes, None).route(model)
