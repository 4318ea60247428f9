"""What the server answers: OpenAI completion objects, stream chunks and the model list, as plain dictionaries."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field

from rass.serving.completion import Completion
from rass.serving.engine import Engine

__all__ = ["DONE", "Envelope", "event", "model_list"]

DONE = b"data: [DONE]\n\n"


def _new_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all objects of one answer share."""

    model: str
    id: str = field(default_factory=_new_id)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completion: Completion, text: str, finish_reason: str) -> dict[str, object]:
        """Return the completion object of an answer that is not streamed."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        answer = self._head("chat.completion") | {"choices": [choice], "usage": _usage(completion)}
        return answer | _extension(completion)

    def opening(self, completion: Completion, *, usage_later: bool) -> dict[str, object]:
        """Return the first chunk of a stream: the role, and the ``rass`` object if one was asked for."""
        return self._chunk({"role": "assistant", "content": ""}, None, usage_later) | _extension(completion)

    def text(self, text: str, *, usage_later: bool) -> dict[str, object]:
        """Return a chunk with new text."""
        return self._chunk({"content": text}, None, usage_later)

    def closing(self, finish_reason: str, *, usage_later: bool) -> dict[str, object]:
        """Return the chunk that says why the answer ended."""
        return self._chunk({}, finish_reason, usage_later)

    def usage(self, completion: Completion) -> dict[str, object]:
        """Return the last chunk of a stream whose client asked for usage: no choices, only the counts."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": _usage(completion)}

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, str], finish_reason: str | None, usage_later: bool) -> dict[str, object]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = self._head("chat.completion.chunk") | {"choices": [choice]}
        # A client that asked for usage finds the field in every chunk, null until the last.
        return chunk | {"usage": None} if usage_later else chunk


def event(data: dict[str, object]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def model_list(engine: Engine, started_at: int) -> dict[str, object]:
    """Return the body of ``GET /v1/models``."""
    served = engine.served
    facts = {
        "revision": served.revision,
        "hidden_size": served.hidden_size,
        "num_layers": len(served.blocks),
        "bundle": engine.bank.digest,
        "context_length": engine.context_length,
    }
    entry = {"id": served.id, "object": "model", "created": started_at, "owned_by": "rass", "rass": facts}
    return {"object": "list", "data": [entry]}


def _usage(completion: Completion) -> dict[str, int]:
    prompt, answer = completion.prompt_tokens, completion.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _extension(completion: Completion) -> dict[str, object]:
    extension = completion.extension()
    return {} if extension is None else {"rass": extension}
