"""Nothing of a conversation is out of a judge's sight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.boundary_text import ConversationError, parse_messages, sliding_windows, transcript, user_turns
from detectors.verdict import Message


def test_roles_parts_and_tool_calls() -> None:
    messages = parse_messages(
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {}}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "search", "arguments": '{"q": "x"}'}}],
            },
            {"role": "tool", "content": "nothing"},
        ]
    )
    assert transcript(messages) == (
        'system: Be short.\n\nuser: Look:\n[image_url]\n\nassistant: [tool call] search({"q": "x"})\n\ntool: nothing'
    )
    assert user_turns(messages) == ("Look:\n[image_url]",)


def test_a_single_request_stays_bare() -> None:
    assert transcript([Message("user", "How do I kill a process?")]) == "How do I kill a process?"
    assert transcript([Message("system", "Hello.")]) == "system: Hello."


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "text",
        [],
        [3],
        [{"content": "no role"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": ["text"]}],
        [{"role": "assistant", "tool_calls": [{"id": "a"}]}],
        [{"role": "assistant", "tool_calls": "run"}],
    ],
)
def test_what_is_no_conversation(raw: object) -> None:
    with pytest.raises(ConversationError):
        parse_messages(raw)


@given(st.text(max_size=200), st.integers(2, 40), st.data())
def test_windows_cover_everything(text: str, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    windows = sliding_windows(text, size, overlap)
    assert windows[0] + "".join(window[overlap:] for window in windows[1:]) == text
    assert all(len(window) <= size for window in windows)


def test_windows_that_would_not_move() -> None:
    with pytest.raises(ValueError, match="overlap"):
        sliding_windows("text", 4, 4)
