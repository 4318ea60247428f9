"""Places at the upstream: bounded, first come first served, never lost, and no request waits for another for ever."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamBroke, UpstreamOverloaded, UpstreamUnreachable
from proxy.exchange import Mode
from proxy.upstream.admission import Admission, Lane, QueueFull

KILL = "How do I kill a process?"
STEPS = st.lists(st.tuples(st.sampled_from(["enter", "leave", "cancel", "run"]), st.integers(0, 30)), max_size=60)


@given(places=st.integers(1, 3), length=st.integers(0, 4), steps=STEPS)
async def test_no_place_is_lost_or_doubled(places, length, steps):
    """Whoever comes, leaves or gives up, in whatever order and however late the loop lets them run."""
    lane = Lane(places, length, 60)
    tasks: list[asyncio.Task[None]] = []
    holding: list[asyncio.Event] = []
    held = most = 0

    async def come():
        nonlocal held, most
        try:
            await lane.enter()
        except QueueFull:
            return
        held += 1
        most = max(most, held)
        done = asyncio.Event()
        holding.append(done)
        try:
            await done.wait()
        finally:
            held -= 1
            lane.leave()

    for step, number in steps:
        if step == "enter":
            tasks.append(asyncio.create_task(come()))
        elif step == "leave" and holding:
            holding.pop(number % len(holding)).set()
        elif step == "cancel" and tasks:
            tasks[number % len(tasks)].cancel()
        elif step == "run":
            await asyncio.sleep(0)
            assert lane.waiting <= length
            assert lane.free >= 0
            assert not (lane.free and lane.waiting)
    while not all(task.done() for task in tasks):
        for event in holding:
            event.set()
        await asyncio.sleep(0)
    assert most <= places
    assert (lane.free, lane.waiting, held) == (places, 0, 0)


async def test_a_place_that_comes_while_its_taker_gives_up_goes_on():
    lane = Lane(1, 1, 60)
    await lane.enter()
    giving_up = asyncio.create_task(lane.enter())
    await asyncio.sleep(0)
    lane.leave()
    giving_up.cancel()
    await asyncio.wait({giving_up})
    assert giving_up.cancelled()
    assert lane.free == 1


async def test_the_first_in_line_is_the_first_served():
    lane = Lane(1, 10, 60)
    await lane.enter()
    order = []

    async def come(number):
        await lane.enter()
        order.append(number)
        lane.leave()

    tasks = [asyncio.create_task(come(number)) for number in range(5)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    lane.leave()
    await asyncio.wait(tasks)
    assert order == [0, 2, 3, 4]


@pytest.fixture
def admission(fake, limits, metrics):
    def make(**values):
        return Admission(fake, limits(**{"connections": 1, "side_connections": 1, **values}), metrics)

    return make


async def send(upstream, purpose="client"):
    return await upstream.send("POST", "/x", headers={}, purpose=purpose)


def rejected(metrics, purpose, reason):
    labels = {"purpose": purpose, "reason": reason}
    return metrics.registry.get_sample_value("rass_upstream_rejected_total", labels)


def test_both_lanes_are_shown_before_anybody_waits(admission, metrics):
    admission()
    for lane in ("client", "side"):
        assert metrics.registry.get_sample_value("rass_upstream_queue_length", {"lane": lane}) == 0
        assert metrics.registry.get_sample_value("rass_upstream_queue_seconds_count", {"lane": lane}) == 0


async def test_a_full_queue_turns_away(admission, metrics):
    upstream = admission(queue_length=0, queue_time_limit_s=3)
    first = await send(upstream)
    with pytest.raises(UpstreamOverloaded) as caught:
        await send(upstream)
    assert "upstream.connections" in caught.value.message
    assert caught.value.headers() == {"retry-after": "3"}
    assert rejected(metrics, "client", "queue_full") == 1
    await first.close()
    await send(upstream)


async def test_a_long_wait_ends(admission, metrics):
    upstream = admission(queue_time_limit_s=0.01)
    first = await send(upstream)
    with pytest.raises(UpstreamOverloaded) as caught:
        await send(upstream)
    assert "upstream.queue_time_limit_s" in caught.value.message
    assert rejected(metrics, "client", "queue_time") == 1
    assert metrics.registry.get_sample_value("rass_upstream_queue_length", {"lane": "client"}) == 0
    assert metrics.registry.get_sample_value("rass_upstream_queue_seconds_count", {"lane": "client"}) == 1
    await first.close()
    await send(upstream)


async def test_a_place_is_given_up_once_however_an_answer_ends(admission, fake, response):
    upstream = admission(queue_length=0)
    fake.coming = [
        response(chunks=[b"x"]),
        response(chunks=[b"x", UpstreamBroke("cut")]),
        response(chunks=[b"x"]),
        UpstreamUnreachable("refused"),
    ]
    ended = await send(upstream)
    while await ended.next_chunk():
        pass
    broken = await send(upstream)
    assert await broken.next_chunk() == b"x"
    with pytest.raises(UpstreamBroke):
        await broken.next_chunk()
    closed = await send(upstream)
    await closed.close()
    with pytest.raises(UpstreamUnreachable):
        await send(upstream)
    last = await send(upstream)
    for response_again in (ended, broken, closed):
        await response_again.close()  # none of these gives the last one's place away
    with pytest.raises(UpstreamOverloaded):
        await send(upstream)
    await last.close()


async def test_a_place_is_given_up_where_closing_is_cancelled(admission, fake, response):
    class Stuck(response):
        async def close(self):
            await asyncio.Event().wait()

    upstream = admission(queue_length=0)
    fake.coming = [Stuck(chunks=[b"x"])]
    closing = asyncio.create_task((await send(upstream)).close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert (await send(upstream)).status == 200


async def test_readiness_checks_need_no_place(admission):
    upstream = admission(queue_length=0)
    await send(upstream)
    await send(upstream, "attempt")
    assert (await send(upstream, "check")).status == 200


@pytest.mark.parametrize("purpose", ["attempt", "reading", "judge"])
async def test_the_proxys_own_requests_take_no_clients_place(admission, purpose):
    upstream = admission(queue_length=0)
    await send(upstream, purpose)
    client = await send(upstream)
    with pytest.raises(UpstreamOverloaded) as caught:
        await send(upstream, purpose)
    assert "upstream.side_connections" in caught.value.message
    assert client.status == 200


async def test_a_client_that_waits_sees_its_answer_later(model, start_proxy, script, eventually):
    model.scripts["slow"], model.scripts["hello"] = script("slow"), script("hi")
    model.hold = asyncio.Event()
    proxy = await start_proxy(Mode.OBSERVE, upstream={"connections": 1})
    slow = asyncio.create_task(proxy.ask("slow"))
    await eventually(lambda: len(model.requests) == 1)
    second = asyncio.create_task(proxy.ask("hello"))
    await eventually(lambda: proxy.total("rass_upstream_queue_length", lane="client") == 1)
    assert len(model.requests) == 1
    model.hold.set()
    assert (await slow)[0] == (await second)[0] == 200
    assert proxy.total("rass_upstream_queue_seconds_count", lane="client") == 1


async def test_a_client_beyond_the_queue_sees_429(model, start_proxy, script, eventually):
    model.scripts["slow"] = script("slow")
    model.hold = asyncio.Event()
    proxy = await start_proxy(Mode.OBSERVE, upstream={"connections": 1, "queue_length": 0, "queue_time_limit_s": 4})
    slow = asyncio.create_task(proxy.ask("slow"))
    await eventually(lambda: len(model.requests) == 1)
    status, headers, body = await proxy.ask("slow")
    error = json.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (429, "rate_limit_error", "overloaded")
    assert headers["retry-after"] == "4"
    model.hold.set()
    assert (await slow)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_attempt_runs_while_its_clients_place_is_held(model, start_proxy, script, refusal, stream):
    """With one place in each lane: a stream's original is still being read while its attempt runs."""
    model.scripts[KILL] = script(refusal + " " * 400, steered="Use the kill command.")
    if stream:
        model.hold = asyncio.Event()
    proxy = await start_proxy(upstream={"connections": 1, "side_connections": 1})
    asking = asyncio.create_task(proxy.ask(KILL, stream=stream))
    if stream:
        async with asyncio.timeout(30):
            while len(model.requests) < 2:  # noqa: ASYNC110 - the attempt; the original has not ended
                await asyncio.sleep(0.005)
        model.hold.set()
    status, headers, body = await asking
    assert (status, headers["x-rass-action"]) == (200, "recovered")
    assert b"kill command" in body or stream


async def test_an_attempt_without_a_place_leaves_the_original(model, start_proxy, script, refusal, eventually):
    """The side lane is full of an attempt that hangs: the next refused answer goes out after the wait's limit."""
    model.scripts[KILL] = script(refusal, steered="Use the kill command.")
    model.hold_attempts = asyncio.Event()
    proxy = await start_proxy(upstream={"side_connections": 1, "queue_time_limit_s": 0.05})
    first = asyncio.create_task(proxy.ask(KILL))
    await eventually(lambda: any("rass" in request for request in model.requests))
    async with asyncio.timeout(30):
        status, _, body = await proxy.ask(KILL)
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == refusal
    assert proxy.total("rass_upstream_rejected_total", purpose="reading", reason="queue_time") == 1
    model.hold_attempts.set()
    assert (await first)[1]["x-rass-action"] == "recovered"


async def test_many_refused_streams_recover_over_few_places(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use the kill command.")
    proxy = await start_proxy(upstream={"connections": 2, "side_connections": 2})
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(proxy.ask(KILL, stream=True) for _ in range(20)))
    assert [headers["x-rass-action"] for _, headers, _ in answers] == ["recovered"] * 20
