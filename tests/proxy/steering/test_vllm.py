"""What every steered request towards vLLM carries: a salt of its own, a name of its own, and orders as strings."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.bundle import Steering
from detectors.manifest import SteeringForm, SteeringSpan
from proxy.steering.hotwire import Hotwire, SlotBook
from proxy.steering.vllm import steered_salt, vllm_request
from proxy.steering.vllm_lens import VllmLens

parts = st.fixed_dictionaries(
    {
        "client_salt": st.none() | st.text(max_size=4),
        "vector_id": st.sampled_from(["refusal-en@0123", "refusal-en@4567", "refusal-zh@0123"]) | st.text(max_size=4),
        "strength": st.floats(allow_nan=False, allow_infinity=False).map(
            lambda value: value + 0.0
        ),  # one zero, not two
        "layers": st.lists(st.integers(0, 90), min_size=1, max_size=3).map(tuple),
        "form": st.sampled_from(SteeringForm),
        "span": st.sampled_from(SteeringSpan),
    }
)


def salt_of(given: dict) -> str:
    steering = Steering(given["vector_id"], given["strength"])
    return steered_salt(given["client_salt"], steering, given["layers"], given["form"], given["span"])


@given(parts, parts)
def test_the_salt_differs_whenever_anything_differs(one, other):
    assert (salt_of(one) == salt_of(other)) == (one == other)


@given(parts, parts, st.sampled_from(["client_salt", "vector_id", "strength", "layers", "form", "span"]))
def test_the_salt_differs_when_a_single_part_differs(one, other, part):
    changed = {**one, part: other[part]}
    assert (salt_of(one) == salt_of(changed)) == (one[part] == other[part])


@given(parts)
def test_a_salt_is_never_the_clients_own(one):
    assert salt_of(one) != one["client_salt"]
    assert salt_of(one)  # vLLM refuses an empty one


@pytest.fixture(params=["hotwire", "vllm-lens"])
def dialect(request, bundle):
    return Hotwire(bundle, SlotBook(16)) if request.param == "hotwire" else VllmLens(bundle)


def test_the_clients_payload_is_left_as_it_is(dialect, bundle):
    payload = {"model": "tiny", "messages": [], "cache_salt": "mine", "vllm_xargs": {"top": 1, "hotwire": "[]"}}
    before = copy.deepcopy(payload)
    steered = dialect.steered(payload, Steering(bundle.vector_id("refusal-en"), 2.0))
    assert payload == before
    assert steered.payload["cache_salt"] != "mine"
    assert {name: value for name, value in steered.payload.items() if name not in ("cache_salt", "vllm_xargs")} == {
        "model": "tiny",
        "messages": [],
    }


def test_orders_are_strings_and_replace_the_clients(dialect, bundle):
    given = {"top": 1, "hotwire": "[]", "apply_steering_vectors": "[]", "apply_hooks": "[]", "_steering_id": "x"}
    steered = dialect.steered({"vllm_xargs": given}, Steering(bundle.vector_id("refusal-en"), 2.0))
    xargs = steered.payload["vllm_xargs"]
    assert len(xargs) == 2
    assert xargs.pop("top") == 1
    [order] = xargs.values()
    assert isinstance(order, str)
    assert len(json.loads(order)) == 1


def test_no_two_requests_carry_one_name(dialect, bundle):
    steering = Steering(bundle.vector_id("refusal-en"), 2.0)
    names = {dialect.steered({}, steering).headers["x-request-id"] for _ in range(50)}
    assert len(names) == 50


def test_equal_steering_shares_a_prefix_and_other_steering_does_not(dialect, bundle):
    strong = [
        dialect.steered({}, Steering(bundle.vector_id("refusal-en"), 2.0)).payload["cache_salt"] for _ in range(2)
    ]
    weak = dialect.steered({}, Steering(bundle.vector_id("refusal-en"), 0.5)).payload["cache_salt"]
    assert strong[0] == strong[1] != weak


@pytest.mark.parametrize("odd", ["text", 7, None, ["hotwire"]])
def test_odd_xargs_of_a_client_are_replaced(odd):
    assert vllm_request({"vllm_xargs": odd}, "hotwire", [], "salt").payload["vllm_xargs"] == {"hotwire": "[]"}
