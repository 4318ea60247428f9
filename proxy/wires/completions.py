"""Completions, the older API: a prompt is judged as one user turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from detectors.verdict import Message
from proxy.answers import Gathered
from proxy.errors import error_event
from proxy.wires.chat import choices_asked_for, effects_of
from proxy.wires.choices import GatheredChoices
from proxy.wires.protocol import Conversation, Surface


class CompletionsWire:
    """``/v1/completions``."""

    surface = Surface.COMPLETIONS
    path = "/v1/completions"
    turns_field = "prompt"
    has_choices = True

    def conversation(self, payload: Mapping[str, object]) -> Conversation:
        """Read a request: a user turn for each prompt. Prompts of token ids cannot be read."""
        prompts = _prompts(payload.get("prompt"))
        messages = tuple(Message("user", prompt) for prompt in prompts)
        text_only = bool(prompts)
        choices = choices_asked_for(payload) * max(1, len(prompts))
        return Conversation(messages, text_only, _observe_only(payload, prompts), choices)

    def gather(self, payload: Mapping[str, object]) -> Gathered:
        """Return a new reader of answers, which passes over an echoed prompt."""
        return GatheredChoices(whole=_text, streamed=_text, echoes=_echoes(payload))

    def error_event(self, body: Mapping[str, object], after: bytes) -> bytes:
        """Return an event with an OpenAI error body."""
        return error_event(body, after)


COMPLETIONS = CompletionsWire()


def _prompts(raw: object) -> list[str]:
    """Return the prompts, none where any of them is not text."""
    if isinstance(raw, str):
        return [raw]
    if not isinstance(raw, Sequence):
        return []
    prompts = [prompt for prompt in raw if isinstance(prompt, str)]
    return prompts if len(prompts) == len(raw) else []


def _observe_only(payload: Mapping[str, object], prompts: Sequence[str]) -> str | None:
    if (why := effects_of(payload)) is not None:
        return why
    if payload.get("echo"):
        return "the answer repeats the prompt (echo)"
    if payload.get("suffix"):
        return "the answer is put in between (suffix)"
    if not prompts:
        return "the prompt is not text"
    if len(prompts) > 1:
        return "several prompts were sent"
    return None


def _echoes(payload: Mapping[str, object]) -> Callable[[int], str]:
    prompts = _prompts(payload.get("prompt")) if payload.get("echo") else []
    each = choices_asked_for(payload)
    return lambda index: prompts[index // each] if 0 <= index // each < len(prompts) else ""


def _text(raw: Mapping[str, object]) -> Mapping[str, object] | None:
    return {"content": raw["text"]} if isinstance(raw.get("text"), str) else None
