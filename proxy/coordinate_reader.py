"""Reading a conversation's coordinates from the served model over the native wire."""

from __future__ import annotations

import json
from collections.abc import Sequence

from detectors.coordinates import Coordinates
from detectors.verdict import Message
from proxy.upstream.protocol import Upstream, read_up_to

READ_PATH = "/v1/rass/read"
_MAX_BYTES = 65_536


class ReadingError(Exception):
    """The served model gave no coordinates; the message says what it answered instead."""


class CoordinatesOverHttp:
    """A ``CoordinateReader``: one forward pass of the served model, no generation."""

    def __init__(self, upstream: Upstream, api_key: str | None) -> None:
        self._upstream = upstream
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"

    async def __call__(self, model: str, messages: Sequence[Message]) -> Coordinates:
        """Return the coordinates; raises ``ReadingError`` or an ``UpstreamError``."""
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        body = json.dumps({"model": model, "messages": turns}).encode()
        response = await self._upstream.send("POST", READ_PATH, headers=self._headers, body=body, purpose="reading")
        try:
            answer, whole = await read_up_to(response, _MAX_BYTES)
        finally:
            await response.close()
        if response.status != 200 or not whole:
            raise ReadingError(f"{READ_PATH} answered with status {response.status}")
        try:
            payload = json.loads(answer)
        except ValueError as error:
            raise ReadingError(f"{READ_PATH} answered with no JSON") from error
        if not isinstance(payload, dict):
            raise ReadingError(f"{READ_PATH} answered with no JSON object")
        bundle = payload.get("bundle")
        return Coordinates(
            h=_number(payload.get("h")),
            rho=_number(payload.get("rho")),
            answer_h=_number(payload.get("answer_h")),
            bundle=bundle if isinstance(bundle, str) else None,
        )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
