"""Relayed paths: byte for byte in both directions, within limits, and nothing that is not listed."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.stream import SseParser

RELAXED = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Engine:
    """A server that writes down what it was sent and answers in given pieces."""

    def __init__(self):
        self.seen = []
        self.pieces = [b"{}"]
        self.content_type = "application/octet-stream"
        self.declares_length = False
        self.breaks = False
        self.hold = None
        self.cancelled = asyncio.Event()
        self.url = ""

    async def answer(self, request):
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.method, request.raw_path, headers, await request.read()))
        response = web.StreamResponse(headers={"content-type": self.content_type, "x-engine": "yes"})
        if self.declares_length:
            response.content_length = sum(map(len, self.pieces))
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.breaks:
            request.transport.close()
            return response
        await response.write_eof()
        return response


@pytest.fixture
async def engine(start_server):
    made = Engine()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", made.answer)
    made.url = await start_server(app)
    return made


@pytest.fixture
async def relaying(engine, start_proxy):
    return await start_proxy(url=engine.url)


@RELAXED
@given(
    sent=st.dictionaries(st.sampled_from(["model", "input", "odd"]), st.text(max_size=20)),
    pieces=st.lists(st.binary(min_size=1, max_size=200), max_size=6),
    declares=st.booleans(),
)
async def test_bytes_pass_unchanged_both_ways(engine, relaying, sent, pieces, declares):
    engine.pieces, engine.declares_length = pieces, declares
    body = json.dumps(sent, indent=1).encode()
    async with relaying.session.post(f"{relaying.url}/v1/embeddings", data=body) as response:
        assert await response.read() == b"".join(pieces)
        assert response.headers["x-engine"] == "yes"
        assert "x-rass-action" not in response.headers
    assert engine.seen[-1][3] == body


async def test_a_form_passes_unchanged(engine, relaying):
    form = aiohttp.FormData()
    form.add_field("file", bytes(range(256)) * 1000, filename="a.wav", content_type="audio/wav")
    form.add_field("model", "whisper")
    async with relaying.session.post(f"{relaying.url}/v1/audio/transcriptions", data=form) as response:
        assert response.status == 200
    _, path, headers, body = engine.seen[-1]
    assert path == "/v1/audio/transcriptions"
    assert headers["content-type"].startswith("multipart/form-data; boundary=")
    assert bytes(range(256)) * 1000 in body


async def test_the_query_and_an_odd_model_name_pass(engine, relaying):
    async with relaying.session.get(f"{relaying.url}/v1/models/Owner/name:1?after=a%20b") as response:
        assert response.status == 200
    assert engine.seen[-1][:2] == ("GET", "/v1/models/Owner/name:1?after=a%20b")
    assert relaying.total("rass_relayed_requests_total", path="GET /v1/models/*", status="2xx") == 1


@pytest.mark.parametrize(
    "path", ["/v1/models/%2e%2e/rass/read", "/v1/models/..%2frass/read", "/v1/load_lora_adapter", "/v1/embeddings/x"]
)
async def test_nothing_unlisted_reaches_the_engine(engine, relaying, path):
    from yarl import URL

    async with relaying.session.get(URL(relaying.url + path, encoded=True)) as response:
        assert response.status == 404
        error = (await response.json())["error"]
    assert error["code"] == "path_not_relayed"
    assert "POST /v1/embeddings" in error["message"]
    assert engine.seen == []


async def test_engine_fields_are_refused_on_every_relayed_path(engine, relaying, start_proxy):
    for path in ("/v1/embeddings", "/v1/moderations", "/tokenize", "/v1/images/generations"):
        async with relaying.session.post(f"{relaying.url}{path}", json={"vllm_xargs": {}}) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == "vllm_xargs"
    form = aiohttp.FormData({"vllm_xargs": "{}"}, default_to_multipart=True)
    async with relaying.session.post(f"{relaying.url}/v1/audio/transcriptions", data=form) as response:
        assert response.status == 400
    assert engine.seen == []
    permitted = await start_proxy(url=engine.url, rights={"allow_client_steering": True})
    async with permitted.session.post(f"{permitted.url}/v1/embeddings", json={"vllm_xargs": {}}) as response:
        assert response.status == 200


async def test_a_body_over_the_limit_is_refused(engine, start_proxy):
    proxy = await start_proxy(url=engine.url, relay={"max_request_bytes": 100})
    async with proxy.session.post(f"{proxy.url}/v1/embeddings", data=b"x" * 101) as response:
        assert response.status == 413
        assert "relay.max_request_bytes" in (await response.json())["error"]["message"]
    assert engine.seen == []


async def test_an_answer_over_the_limit_is_refused_or_cut(engine, start_proxy):
    proxy = await start_proxy(url=engine.url, relay={"max_answer_bytes": 1000})
    engine.pieces = [b"x" * 600, b"x" * 600]
    engine.declares_length = True
    async with proxy.session.post(f"{proxy.url}/v1/audio/speech", json={}) as response:
        assert response.status == 502
        assert (await response.json())["error"]["code"] == "upstream_answer_too_large"
    engine.declares_length = False
    with pytest.raises(aiohttp.ClientPayloadError):
        async with proxy.session.post(f"{proxy.url}/v1/audio/speech", json={}) as response:
            await response.read()


async def test_an_answer_that_breaks_is_cut_and_a_stream_ends_with_an_error_event(engine, relaying):
    engine.pieces, engine.breaks = [b"data: 1\n\n"], True
    with pytest.raises(aiohttp.ClientPayloadError):
        async with relaying.session.post(f"{relaying.url}/v1/audio/speech", json={}) as response:
            await response.read()
    engine.content_type = "text/event-stream"
    async with relaying.session.post(f"{relaying.url}/v1/audio/speech", json={}) as response:
        events = SseParser().feed(await response.read())
    assert json.loads(events[-1].data)["error"]["code"] == "upstream_broke"


async def test_a_client_that_leaves_ends_the_engines_work(engine, relaying):
    engine.hold = asyncio.Event()
    response = await relaying.session.post(f"{relaying.url}/v1/audio/speech", json={})
    await response.content.readany()
    response.close()
    async with asyncio.timeout(30):
        await engine.cancelled.wait()
