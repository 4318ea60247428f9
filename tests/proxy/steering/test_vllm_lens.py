"""vllm-lens is sent the vector itself, as the bytes of what is to be added at strength 1."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from detectors.bundle import Steering
from proxy.steering.vllm_lens import VllmLens


def test_the_order_holds_what_the_bundle_adds(bundle):
    steered = VllmLens(bundle).steered({}, Steering(bundle.vector_id("refusal-zh"), 1.0))
    [order] = json.loads(steered.payload["vllm_xargs"]["apply_steering_vectors"])
    tensor = order["activations"]
    rows = np.frombuffer(base64.b64decode(tensor["data"]), dtype=tensor["dtype"]).reshape(tensor["shape"])
    np.testing.assert_array_equal(rows, bundle.addition("refusal-zh"))
    np.testing.assert_allclose(rows, -2.5 * bundle.vector_array("refusal-zh"), rtol=1e-6)
    assert order["layer_indices"] == [1, 3]
    assert order["scale"] == 1.0


@pytest.mark.parametrize("choices", [2, 3])
def test_several_choices_are_not_asked_for_because_they_would_not_be_steered(bundle, choices):
    assert VllmLens(bundle).steered({"n": choices}, Steering(bundle.vector_id("refusal-en"), 2.0)) is None


@pytest.mark.parametrize("payload", [{}, {"n": None}, {"n": 1}])
def test_one_choice_is(bundle, payload):
    assert VllmLens(bundle).steered(payload, Steering(bundle.vector_id("refusal-en"), 2.0)) is not None
