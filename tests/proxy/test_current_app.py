"""Exchanging the application under running requests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from proxy.current_app import CurrentApp


class Inner:
    """An application that says its name once it may, and whether it lives."""

    def __init__(self, name, *, fails=False):
        self.name = name
        self.alive = False
        self.arrived = asyncio.Event()
        self.may_answer = asyncio.Event()
        self._fails = fails
        self.app = Starlette(routes=[Route("/", self._answer)], lifespan=self._lifespan)

    async def _answer(self, _request):
        assert self.alive
        self.arrived.set()
        await self.may_answer.wait()
        assert self.alive
        return PlainTextResponse(self.name)

    @asynccontextmanager
    async def _lifespan(self, _app):
        if self._fails:
            raise RuntimeError("cannot start")
        self.alive = True
        yield
        self.alive = False


async def get(app):
    """The body of one request."""
    body = b""

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        nonlocal body
        body += message.get("body", b"")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    return body.decode()


async def test_a_request_ends_on_the_application_it_began_on(eventually):
    served, first, second = CurrentApp(), Inner("first"), Inner("second")
    second.may_answer.set()
    await served.swap(first.app)
    running = asyncio.create_task(get(served))
    await first.arrived.wait()
    await served.swap(second.app)
    assert await get(served) == "second"
    assert first.alive
    first.may_answer.set()
    assert await running == "first"
    await eventually(lambda: not first.alive)
    assert second.alive
    await served.close()
    assert not second.alive


async def test_an_idle_application_is_closed_at_once(eventually):
    served, first, second = CurrentApp(), Inner("first"), Inner("second")
    await served.swap(first.app)
    await served.swap(second.app)
    await eventually(lambda: not first.alive)
    await served.close()


async def test_one_that_cannot_start_changes_nothing():
    served, first = CurrentApp(), Inner("first")
    first.may_answer.set()
    await served.swap(first.app)
    with pytest.raises(RuntimeError, match="cannot start"):
        await served.swap(Inner("second", fails=True).app)
    assert await get(served) == "first"
    await served.close()


async def test_closing_ends_former_applications_too():
    served, first, second = CurrentApp(), Inner("first"), Inner("second")
    await served.swap(first.app)
    running = asyncio.create_task(get(served))
    await first.arrived.wait()
    await served.swap(second.app)
    await served.close()
    assert not first.alive
    assert not second.alive
    running.cancel()
    with pytest.raises(RuntimeError, match="no application"):
        await get(served)
