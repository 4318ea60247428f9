"""Retries: what is sent again, how long is waited, and what goes back as it came."""

from __future__ import annotations

import json
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import (
    UpstreamBroke,
    UpstreamCircuitOpen,
    UpstreamConnectTimedOut,
    UpstreamTimedOut,
    UpstreamUnreachable,
)
from proxy.exchange import Mode
from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings
from proxy.upstream.retries import Retries, retry_after_s

NOW = 1_800_000_000.0


class Clock:
    """A clock that only sleeping moves; ``chance`` is the jitter's draw."""

    def __init__(self, chance=1.0):
        self.now = 0.0
        self.slept = []
        self._chance = chance

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def chance(self):
        return self._chance


def retrying(fake, metrics, clock, **values):
    return Retries(
        fake,
        UpstreamSettings(**values),
        metrics,
        clock=clock,
        wall_clock=lambda: NOW + clock.now,
        sleep=clock.sleep,
        chance=clock.chance,
    )


async def send(upstream, purpose="client", **headers):
    return await upstream.send("POST", "/v1/chat/completions", headers=headers, body=b"{}", purpose=purpose)


def retries(metrics, reason):
    return metrics.registry.get_sample_value("rass_upstream_retries_total", {"reason": reason}) or 0


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("purpose", ["client", "attempt"])
async def test_a_status_that_may_pass_is_tried_again(fake, metrics, response, status, purpose):
    first = response(status)
    fake.coming = [first, response(200)]
    answered = await send(retrying(fake, metrics, Clock()), purpose)
    assert answered.status == 200
    assert first.closed
    assert len(fake.sent) == 2
    assert retries(metrics, str(status)) == 1


@pytest.mark.parametrize("error", [UpstreamUnreachable("x"), UpstreamConnectTimedOut("x")])
async def test_no_connection_is_tried_again(fake, metrics, error):
    fake.coming = [error, error]
    assert (await send(retrying(fake, metrics, Clock()))).status == 200
    assert retries(metrics, "connection") == 2


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 404, 408, 409, 422, 501])
async def test_other_statuses_go_back_at_once(fake, metrics, response, status):
    fake.coming = [response(status)]
    assert (await send(retrying(fake, metrics, Clock()))).status == status
    assert len(fake.sent) == 1


@pytest.mark.parametrize("error", [UpstreamTimedOut("x"), UpstreamBroke("x"), UpstreamCircuitOpen("x")])
async def test_other_errors_go_back_at_once(fake, metrics, error):
    fake.coming = [error]
    with pytest.raises(type(error)):
        await send(retrying(fake, metrics, Clock()))
    assert len(fake.sent) == 1


@pytest.mark.parametrize("purpose", ["reading", "judge", "check"])
async def test_what_has_a_deadline_of_its_own_is_not_tried_again(fake, metrics, response, purpose):
    fake.coming = [response(503)]
    assert (await send(retrying(fake, metrics, Clock()), purpose)).status == 503


async def test_the_last_answer_goes_back_as_it_came(fake, metrics, response):
    last = response(503, {"retry-after": "1"}, [b"busy"])
    fake.coming = [response(429), response(500), last]
    clock = Clock()
    answered = await send(retrying(fake, metrics, clock, retries=2))
    assert answered is last
    assert not last.closed
    assert await answered.next_chunk() == b"busy"
    assert len(clock.slept) == 2


async def test_none_are_made_when_none_are_wanted(fake, metrics, response):
    fake.coming = [response(503)]
    assert (await send(retrying(fake, metrics, Clock(), retries=0))).status == 503


async def test_a_retry_after_is_waited_for(fake, metrics, response):
    clock = Clock(chance=0.0)
    date = formatdate(NOW + 5, usegmt=True)
    fake.coming = [response(429, {"retry-after": "3"}), response(503, {"retry-after": date})]
    assert (await send(retrying(fake, metrics, clock))).status == 200
    assert clock.slept == [3.0, 2.0]


async def test_a_retry_after_that_is_too_long_goes_back(fake, metrics, response):
    clock = Clock()
    fake.coming = [response(429, {"retry-after": "3"}), response(429, {"retry-after": "8"})]
    answered = await send(retrying(fake, metrics, clock, retry_time_limit_s=10))
    assert (answered.status, answered.headers["retry-after"]) == (429, "8")
    assert clock.slept == [3.0]
    assert retries(metrics, "429") == 1


async def test_the_idempotency_key_stays_the_same(fake, metrics, response):
    fake.coming = [response(500), response(500)]
    await send(retrying(fake, metrics, Clock()), **{"idempotency-key": "once"})
    assert [headers["idempotency-key"] for _, headers, _ in fake.sent] == ["once"] * 3


@given(
    chances=st.floats(0, 1),
    count=st.integers(0, 8),
    limit_s=st.floats(0.01, 60),
    backoff_s=st.floats(0.01, 5),
)
async def test_the_waits_are_bounded(chances, count, limit_s, backoff_s):
    class Failing:
        address = "http://model"
        sent = 0

        async def send(self, *_arguments, **_more):
            self.sent += 1
            raise UpstreamUnreachable("nobody there")

    clock, failing = Clock(chances), Failing()
    upstream = retrying(failing, Metrics(), clock, retries=count, retry_time_limit_s=limit_s, retry_backoff_s=backoff_s)
    with pytest.raises(UpstreamUnreachable):
        await send(upstream)
    assert 1 <= failing.sent <= count + 1
    assert sum(clock.slept) <= limit_s * (1 + 1e-9)
    assert all(wait <= backoff_s * 2**number for number, wait in enumerate(clock.slept))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("1.5", 1.5),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        ("Fri, 15 Jan 2027 08:00:30", 30.0),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("Fri, 99 Jan 2027 08:00:30 GMT", None),
    ],
)
def test_what_a_retry_after_asks_for(value, seconds):
    assert retry_after_s({"retry-after": value}, NOW) == seconds


@given(st.text(max_size=40))
def test_no_retry_after_is_an_error(value):
    seconds = retry_after_s({"retry-after": value}, NOW)
    assert seconds is None or seconds >= 0


async def test_a_client_sees_only_the_answer_that_came(wire, answer, start_proxy):
    """Through the whole application, over real connections."""
    body = b'{"choices": [{"index": 0, "message": {"content": "hi"}}]}'
    coming = [None, answer(b"{}", status="503 Busy", retry_after="0"), answer(body)]

    async def script(exchange):
        data = coming[len(wire.exchanges) - 1]
        if data is None:
            exchange.reset()
        else:
            await exchange.send(data)

    wire.script = script
    proxy = await start_proxy(Mode.OBSERVE, url=wire.url, upstream={"retry_backoff_s": 0.001})
    status, _, seen = await proxy.ask("hello", headers={"idempotency-key": "once"})
    assert (status, seen) == (200, body)
    assert [exchange.headers["idempotency-key"] for exchange in wire.exchanges] == ["once"] * 3
    assert len({exchange.body for exchange in wire.exchanges}) == 1
    assert proxy.total("rass_upstream_retries_total", reason="connection") == 1
    assert proxy.total("rass_upstream_retries_total", reason="503") == 1


async def test_a_long_retry_after_reaches_the_client(wire, answer, start_proxy):
    async def script(exchange):
        await exchange.send(answer(b'{"error": {"message": "slow down"}}', status="429 Slow", retry_after="3600"))

    wire.script = script
    proxy = await start_proxy(Mode.OBSERVE, url=wire.url)
    status, headers, seen = await proxy.ask("hello")
    assert (status, headers["retry-after"]) == (429, "3600")
    assert json.loads(seen)["error"]["message"] == "slow down"
    assert len(wire.exchanges) == 1
