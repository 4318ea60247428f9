"""Coordinates over a transport: what the served model says, and what is no coordinate."""

from __future__ import annotations

import json

import pytest

from detectors.coordinates import Coordinates, reader_over
from detectors.judge_transport import PostResponse
from detectors.verdict import Message


async def read(status: int, body: bytes) -> Coordinates:
    async def transport(sent: bytes) -> PostResponse:
        assert json.loads(sent) == {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
        return PostResponse(status, body)

    return await reader_over(transport)("tiny", [Message("user", "hello")])


async def test_coordinates() -> None:
    body = b'{"h": -2, "rho": 0.5, "answer_h": null, "bundle": "abc"}'
    assert await read(200, body) == Coordinates(-2.0, 0.5, None, "abc")
    assert await read(200, b'{"h": true, "bundle": 3}') == Coordinates(None, None, None, None)


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (200, b"[]"), (200, b"nonsense")])
async def test_no_coordinates(status: int, body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  a JSON error is one of them
        await read(status, body)
