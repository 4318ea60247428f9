"""What opens the circuit, what does not, and what everybody sees while it is open."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.errors import UpstreamBroke, UpstreamCircuitOpen, UpstreamTimedOut, UpstreamUnreachable
from proxy.exchange import Mode
from proxy.server import listen, url_of
from proxy.upstream.circuit import Circuit


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def circuit(fake, limits, metrics, clock):
    return Circuit(
        fake, limits(circuit_failures=2, circuit_open_s=7), metrics, name="model", counted="client", clock=clock
    )


async def ask(circuit, purpose="client"):
    """Send a request and read its answer to the end."""
    response = await circuit.send("POST", "/x", headers={}, purpose=purpose)
    try:
        while await response.next_chunk():
            pass
    finally:
        await response.close()
    return response


def state(metrics):
    states = ("closed", "open", "half-open")
    shown = {
        each: metrics.registry.get_sample_value("rass_upstream_circuit", {"upstream": "model", "state": each})
        for each in states
    }
    assert sum(shown.values()) == 1
    return next(each for each in states if shown[each])


async def open_it(circuit, fake):
    fake.coming = [UpstreamUnreachable("refused")] * 2
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable):
            await ask(circuit)


async def test_failures_in_a_row_open_it(circuit, fake, metrics, clock):
    assert state(metrics) == "closed"
    await open_it(circuit, fake)
    assert state(metrics) == "open"
    with pytest.raises(UpstreamCircuitOpen) as caught:
        await ask(circuit)
    assert len(fake.sent) == 2
    assert "http://model" in caught.value.message
    assert "upstream_unreachable" in caught.value.message
    assert "refused" not in caught.value.message, "an error's message may quote the client that it was for"
    assert caught.value.headers() == {"retry-after": "7"}
    rejected = {"purpose": "client", "reason": "circuit_open"}
    assert metrics.registry.get_sample_value("rass_upstream_rejected_total", rejected) == 1
    clock.now = 7.0
    assert (await ask(circuit)).status == 200
    assert state(metrics) == "closed"


@pytest.mark.parametrize(
    "chunks", [[UpstreamBroke("cut")], [UpstreamTimedOut("late")], [b"some", UpstreamBroke("cut")]]
)
async def test_answers_that_break_off_are_failures(circuit, fake, metrics, response, chunks):
    fake.coming = [response(chunks=list(chunks)) for _ in range(2)]
    for _ in range(2):
        with pytest.raises((UpstreamBroke, UpstreamTimedOut)):
            await ask(circuit)
    assert state(metrics) == "open"


async def test_server_errors_are_failures(circuit, fake, metrics, response):
    fake.coming = [response(500), response(503)]
    assert [(await ask(circuit)).status for _ in range(2)] == [500, 503]
    assert state(metrics) == "open"


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_what_the_client_did_wrong_is_no_failure(circuit, fake, metrics, response, status):
    fake.coming = [response(500), response(status), response(500), response(status), response(500)]
    for _ in range(5):
        await ask(circuit)
    assert state(metrics) == "closed"


@pytest.mark.parametrize("purpose", ["attempt", "reading", "judge", "canary", "check"])
async def test_the_proxys_own_requests_never_open_it(circuit, fake, metrics, response, purpose):
    fake.coming = [response(500)] * 10
    for _ in range(10):
        await ask(circuit, purpose)
    assert state(metrics) == "closed"


async def test_the_proxys_own_requests_wait_until_it_is_closed(circuit, fake, clock):
    await open_it(circuit, fake)
    clock.now = 7.0
    with pytest.raises(UpstreamCircuitOpen):
        await ask(circuit, "attempt")
    for purpose in ("check", "canary"):
        assert (await ask(circuit, purpose)).status == 200
    assert [purpose for purpose, _, _ in fake.sent] == ["client", "client", "check", "canary"]


async def test_a_probe_closes_it_with_its_first_byte(circuit, fake, metrics, clock, response):
    await open_it(circuit, fake)
    clock.now = 7.0
    fake.coming = [response(chunks=[b"one", b"two"])]
    probe = await circuit.send("POST", "/x", headers={}, purpose="client")
    assert state(metrics) == "half-open"
    with pytest.raises(UpstreamCircuitOpen):
        await ask(circuit)
    assert await probe.next_chunk() == b"one"
    assert state(metrics) == "closed"
    await probe.close()
    assert (await ask(circuit)).status == 200


async def test_a_probe_whose_client_leaves_makes_room(circuit, fake, clock):
    await open_it(circuit, fake)
    clock.now = 7.0
    fake.held = asyncio.Event()
    leaving = asyncio.create_task(ask(circuit))
    await asyncio.sleep(0)
    with pytest.raises(UpstreamCircuitOpen):
        await ask(circuit)
    leaving.cancel()
    await asyncio.wait({leaving})
    fake.held.set()
    assert (await ask(circuit)).status == 200


async def test_it_closes_what_is_behind_it(circuit, fake):
    await circuit.close()
    assert fake.closed


async def test_a_client_sees_an_error_in_openais_shape(start_proxy):
    with listen("127.0.0.1", 0) as nobody:
        upstream = {"retries": 0, "circuit_failures": 2, "circuit_open_s": 60}
        proxy = await start_proxy(Mode.OBSERVE, url=url_of(nobody), upstream=upstream)
        for _ in range(2):
            assert (await proxy.ask("hello"))[0] == 502
        for _ in range(2):
            status, headers, body = await proxy.ask("hello")
            assert status == 503
            assert 1 <= int(headers["retry-after"]) <= 60
            error = json.loads(body)["error"]
            assert (error["type"], error["code"]) == ("upstream_error", "upstream_circuit_open")
        async with proxy.session.get(f"{proxy.url}/v1/models") as response:
            assert response.status == 503
            assert "retry-after" in response.headers
    assert proxy.total("rass_upstream_circuit", upstream="model", state="open") == 1
    assert proxy.total("rass_upstream_rejected_total", purpose="client", reason="circuit_open") == 2
    assert proxy.total("rass_upstream_rejected_total", purpose="relay", reason="circuit_open") == 1
