"""The head of an answer leaves with its body where that follows at once, and alone where it does not."""

from __future__ import annotations

import asyncio

import pytest

from proxy.http_protocol import JoiningTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire(asyncio.Transport):
    """A connection that keeps what is written, write by write."""

    def __init__(self):
        super().__init__()
        self.written = []
        self.closed = False

    def write(self, data):
        assert not self.closed
        self.written.append(bytes(data))

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed


@pytest.fixture
def wire():
    return Wire()


async def test_head_and_body_leave_together(wire):
    joining = JoiningTransport(wire, asyncio.get_running_loop())
    joining.write(HEAD)
    joining.write(b"ok")
    await asyncio.sleep(0)
    assert wire.written == [HEAD + b"ok"]


async def test_a_head_alone_leaves_in_the_same_turn_of_the_loop(wire):
    joining = JoiningTransport(wire, asyncio.get_running_loop())
    joining.write(HEAD)
    await asyncio.sleep(0)
    assert wire.written == [HEAD]
    joining.write(b"data: 1\n\n")
    joining.write(b"data: 2\n\n")
    assert wire.written == [HEAD, b"data: 1\n\n", b"data: 2\n\n"]


@pytest.mark.parametrize("pieces", [[HEAD, HEAD], [HEAD, b"", b"ok"], [HEAD, b"HTTP/1.1 is a protocol", HEAD]])
async def test_nothing_is_lost_or_exchanged(wire, pieces):
    joining = JoiningTransport(wire, asyncio.get_running_loop())
    for piece in pieces:
        joining.write(piece)
    await asyncio.sleep(0)
    assert b"".join(wire.written) == b"".join(pieces)


async def test_what_was_held_leaves_before_the_end(wire):
    joining = JoiningTransport(wire, asyncio.get_running_loop())
    joining.write(HEAD)
    joining.close()
    assert (wire.written, wire.closed) == ([HEAD], True)
    await asyncio.sleep(0)
    assert wire.written == [HEAD]


async def test_nothing_is_written_to_a_connection_that_was_lost(wire):
    joining = JoiningTransport(wire, asyncio.get_running_loop())
    joining.write(HEAD)
    wire.closed = True
    await asyncio.sleep(0)
    assert wire.written == []
