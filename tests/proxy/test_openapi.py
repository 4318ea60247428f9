"""The hand-written document says what the app does, and no request drawn from it ends in a 500."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings

from proxy.openapi import openapi_document
from proxy.relayed_path import RelayedPath
from proxy.settings.operation import RelaySettings

DOCUMENT = openapi_document([RelayedPath.parse(text) for text in RelaySettings().paths])
FEW = settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
async def strict_upstream(start_server):
    """Refuses everything, as a served model does with requests that are no good."""

    async def refuse(request):
        await request.read()
        return web.json_response({"error": {"message": "no"}}, status=400)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    return await start_server(app)


async def test_the_document_is_served_and_needs_nothing_from_elsewhere(start_proxy):
    proxy = await start_proxy()
    async with proxy.session.get(f"{proxy.url}/openapi.json") as response:
        assert await response.json() == DOCUMENT
    for page in ("/docs", "/redoc"):
        async with proxy.session.get(f"{proxy.url}{page}") as response:
            assert response.status == 404


async def test_no_request_that_the_document_allows_ends_in_a_500(start_proxy, strict_upstream):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra dev)")
    proxy = await start_proxy(url=strict_upstream)
    schema = await asyncio.to_thread(schemathesis.openapi.from_url, f"{proxy.url}/openapi.json")
    asked = []

    def ask_all():
        for result in schema.get_all_operations():
            operation = result.ok()

            @FEW
            @given(case=operation.as_strategy())
            def ask(case):
                response = case.call(timeout=20)
                asked.append(case.path)
                assert response.status_code != HTTPStatus.INTERNAL_SERVER_ERROR, case.as_curl_command()

            ask()

    await asyncio.to_thread(ask_all)
    assert set(asked) == set(DOCUMENT["paths"])
