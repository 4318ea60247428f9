"""Fields that steer an engine are found in every kind of body."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine_fields import STEERING_FIELDS, refuse_steering_in
from proxy.errors import InvalidBody, SteeringNotPermitted, UnsupportedBody

FORM = "multipart/form-data; boundary=b"


def form(*dispositions, content=b"x"):
    parts = [b"--b\r\n" + line + b"\r\n\r\n" + content + b"\r\n" for line in dispositions]
    return b"".join(parts) + b"--b--\r\n"


@pytest.mark.parametrize("name", STEERING_FIELDS)
def test_they_are_refused_by_name(name):
    for body, kind in [
        (json.dumps({"input": "x", name: 1}).encode(), "application/json"),
        (json.dumps({"extra_body": {name: 1}}).encode(), ""),
        (json.dumps({name: 1}).encode("utf-16"), "text/plain"),
        (form(f'Content-Disposition: form-data; name="{name}"'.encode()), FORM),
        (form(f"content-disposition:form-data;name={name}".encode()), FORM),
        (form(f'Content-Disposition: form-data; name="{name}[a]"'.encode()), FORM),
    ]:
        with pytest.raises(SteeringNotPermitted) as caught:
            refuse_steering_in(body, kind)
        assert caught.value.param == name


def test_ordinary_bodies_pass():
    refuse_steering_in(b'{"input": ["a"], "user": "rass"}', "application/json")
    file = b'Content-Disposition: form-data; name="file"; filename="vllm_xargs; x"\r\nContent-Type: audio/wav'
    many = b'Content-Disposition: form-data; name="timestamp_granularities[]"'
    refuse_steering_in(form(file, many, content=bytes(range(256))), FORM)


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Disposition: form-data; name*=utf-8''vllm%5Fxargs",
        b'Content-Disposition: form-data; name="vllm\\_xargs"',
        b'Content-Disposition: form-data; name="file"; name="vllm_xargs"',
        b'Content-Disposition: form-data; filename="x"; name="vllm_xargs"',
        b'Content-Disposition: attachment; name="vllm_xargs"',
    ],
)
def test_a_name_that_parsers_may_read_differently_is_refused(line):
    with pytest.raises(UnsupportedBody):
        refuse_steering_in(form(line), FORM)


def test_a_false_content_type_hides_nothing():
    with pytest.raises(UnsupportedBody):
        refuse_steering_in(b'{"vllm_xargs": {}}', FORM)
    with pytest.raises(InvalidBody):
        refuse_steering_in(b"vllm_xargs=1", "application/x-www-form-urlencoded")


@given(st.sampled_from(STEERING_FIELDS), st.binary(max_size=40), st.sampled_from([b"\r\n", b"\n", b""]))
def test_no_neighbour_hides_a_name(name, noise, end):
    hidden = b'Content-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n1\r\n--b--\r\n'
    with pytest.raises((SteeringNotPermitted, UnsupportedBody)):
        refuse_steering_in(form(b'Content-Disposition: form-data; name="a"', content=noise + end + hidden), FORM)
