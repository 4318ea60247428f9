"""Coordinates over a transport: what the served model says, and what is no coordinate."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detectors.coordinates import Coordinates, reader_over, request_coordinates
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


def test_a_harmful_turn_is_not_talked_away_by_a_harmless_last_one() -> None:
    turns = np.array([5.0, -4.0, -4.0, 3.0])
    owners = np.array([0, 0, 1, 2])
    alone = request_coordinates(turns, owners)
    assert alone.tolist() == [5.0, -4.0, 3.0]
    asked = np.array([-8.0, -8.0, -1.0])
    assert request_coordinates(turns, owners, asked, 0.25).tolist() == [5.0, -5.0, 2.0]
