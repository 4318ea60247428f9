"""Coordinates of a conversation as a served model reads them, and reading them within a deadline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from detectors.judge_transport import PostTransport
from detectors.verdict import Message

DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Coordinates:
    """What a served model measured of a conversation.

    ``h`` is the harm logit of the request (``None`` where it needs the question and none was asked), ``rho`` the
    refusal logit (``None`` after an assistant turn), ``answer_h`` the harm logit of the final assistant turn (``None``
    where there is none, or no question was asked about it).
    ``bundle`` is the digest of the bundle whose probes made them: coordinates of another bundle mean something else.
    """

    h: float | None
    rho: float | None
    answer_h: float | None
    bundle: str | None


class CoordinateReader(Protocol):
    """Reads the coordinates of a conversation from the served model of the given name; may raise anything."""

    async def __call__(self, model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        """Return the coordinates; ``question``, whether the request was harmful, is put to the model in passing."""
        ...


@dataclass(frozen=True, slots=True)
class NotRead:
    """Coordinates could not be had; ``reason`` says why in a few words."""

    reason: str


async def read_within(
    reader: CoordinateReader,
    model: str,
    messages: Sequence[Message],
    *,
    timeout_s: float,
    bundle: str,
    question: str | None = None,
) -> Coordinates | NotRead:
    """Read coordinates, turning every failure into data.

    Late, failing or foreign (another bundle's) readings are ``NotRead``; the caller's own cancellation passes through.
    """
    try:
        async with asyncio.timeout(timeout_s):
            coordinates = await reader(model, messages, question)
    except TimeoutError:
        return NotRead(f"no coordinates within {timeout_s:g} s")
    except Exception as error:  # a detector must never fail a request, whatever its transport raises
        return NotRead(f"coordinates could not be read: {type(error).__name__}: {error}")
    if coordinates.bundle != bundle:
        return NotRead(f"coordinates are of bundle {coordinates.bundle or 'none'}, expected {bundle}")
    return coordinates


def request_coordinates(
    turns: DoubleArray, owners: npt.NDArray[np.int64], asked: DoubleArray | None = None, share: float | None = None
) -> DoubleArray:
    """Return the harm coordinate h ``[rows]`` of conversations: one harmful turn makes a conversation harmful.

    ``turns`` are the logits of probe ``h`` ``[user turns]`` in order, ``owners`` the row of each, ascending. ``asked``
    are those of probe ``asked_h`` ``[rows]``, about the last turn: there h is a mean of both logits, in which ``asked``
    has ``share``.
    """
    if asked is not None and share is not None:
        last = np.append(owners[1:] != owners[:-1], True)
        turns = np.where(last, (1 - share) * turns + share * asked[owners], turns)
    result = np.full(int(owners[-1]) + 1, -np.inf)
    np.maximum.at(result, owners, turns)
    return result


def reader_over(transport: PostTransport) -> CoordinateReader:
    """Return a reader that posts conversations to a served model's reading endpoint through ``transport``.

    The reader raises ``ValueError`` for an answer that holds no coordinates, and whatever the transport raises.
    """

    async def read(model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        asked = {} if question is None else {"question": question}
        response = await transport(json.dumps({"model": model, "messages": turns, **asked}).encode())
        if response.status != 200:
            raise ValueError(f"the served model answered with status {response.status}")
        payload = json.loads(response.body)
        if not isinstance(payload, dict):
            raise ValueError("the served model answered with no JSON object")
        bundle = payload.get("bundle")
        return Coordinates(
            h=_number(payload.get("h")),
            rho=_number(payload.get("rho")),
            answer_h=_number(payload.get("answer_h")),
            bundle=bundle if isinstance(bundle, str) else None,
        )

    return read


def shared_tokens(prefix: Sequence[int], whole: Sequence[int]) -> int:
    """Return how many leading tokens both have in common."""
    pairs = enumerate(zip(prefix, whole, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(prefix), len(whole)))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
