"""What is read from a request, what is refused, and what is only observed."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.verdict import Message
from proxy.caller import Caller
from proxy.chat_request import parse_chat_request
from proxy.engine_fields import STEERING_FIELDS, parse_object
from proxy.errors import InvalidBody, InvalidModeHeader, RequestError, SteeringNotPermitted
from proxy.exchange import Mode
from proxy.notes import Notes
from proxy.request_limits import check_body
from proxy.settings.operation import LimitSettings
from proxy.wires.completions import COMPLETIONS
from proxy.wires.protocol import Surface

NOBODY = Caller()
LIMITS = LimitSettings()


def parse(body, headers=None, *, mode=Mode.RECOVER, steering=False, api_key=None, caller=NOBODY, limits=LIMITS):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    check_body(raw, limits)
    return parse_chat_request(
        raw,
        parse_object(raw),
        headers or {},
        request_id="r",
        caller=caller,
        notes=Notes(),
        limits=limits,
        configured_mode=mode,
        allow_client_steering=steering,
        api_key=api_key,
    )


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe\x00", '{"a": "\u225b"}'.encode("utf-16")])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(InvalidBody) as caught:
        parse(body)
    assert caught.value.body()["error"]["code"] == "invalid_json"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    with suppress(RequestError):
        assert parse(body).body == body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["model", "messages", "n", "stream", "tools", "response_format"]), JSON))
def test_any_object_passes_unchanged(payload):
    request = parse(payload)
    assert request.body == json.dumps(payload).encode()
    assert all(isinstance(turn.content, str) for turn in request.messages)


@pytest.mark.parametrize("name", STEERING_FIELDS)
def test_steering_fields_need_the_right(name):
    with pytest.raises(SteeringNotPermitted) as caught:
        parse({"model": "m", "messages": [], name: {}})
    assert caught.value.param == name
    assert name in parse({"model": "m", "messages": [], name: {}}, steering=True).payload


def test_an_escaped_steering_field_is_still_one():
    with pytest.raises(SteeringNotPermitted):
        parse(b'{"r\\u0061ss": {"steer": {}}}')


def test_the_whole_conversation_is_read():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]
    request = parse({"messages": turns})
    assert request.messages == (Message("system", "s"), Message("user", "a\nb"))
    assert request.text_only
    assert request.observe_only is None


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]},
        {"messages": [{"role": "assistant", "audio": {"id": "a"}}]},
        {"messages": "odd"},
        {"messages": [7]},
        {},
    ],
)
def test_what_detectors_cannot_see_is_only_observed(fields):
    request = parse(fields)
    assert not request.text_only
    assert request.observe_only is not None


@pytest.mark.parametrize(
    ("configured", "wanted", "effective"),
    [
        (Mode.RECOVER, "observe", Mode.OBSERVE),
        (Mode.RECOVER, " Off ", Mode.OFF),
        (Mode.OBSERVE, "recover", Mode.OBSERVE),
        (Mode.OFF, "recover", Mode.OFF),
    ],
)
def test_the_mode_header_only_lowers(configured, wanted, effective):
    assert parse({}, {"x-rass-mode": wanted}, mode=configured).mode is effective


def test_an_unknown_mode_is_refused():
    with pytest.raises(InvalidModeHeader, match="off, observe, shadow, recover, steer"):
        parse({}, {"x-rass-mode": "stear"})


def test_headers_that_belong_to_one_connection_stay_there():
    given = {"host": "h", "connection": "x", "x-rass-mode": "off", "accept-encoding": "br", "authorization": "Bearer c"}
    assert parse({}, given).headers == {"authorization": "Bearer c", "x-request-id": "r"}
    assert parse({}, given, api_key="k").headers["authorization"] == "Bearer k"


def test_surfaces_that_are_not_listed_are_only_observed():
    body = {"model": "m", "prompt": "hi"}
    given = {"request_id": "r", "configured_mode": Mode.RECOVER, "allow_client_steering": False, "api_key": None}
    given |= {"caller": NOBODY, "notes": Notes(), "limits": LIMITS}
    for surfaces, expected in [((Surface.CHAT,), False), ((Surface.COMPLETIONS,), True)]:
        request = parse_chat_request(
            json.dumps(body).encode(), body, {}, **given, wire=COMPLETIONS, recovered_surfaces=surfaces
        )
        assert (request.observe_only is None) is expected
