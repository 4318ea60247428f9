"""What the proxy sends, decoded by ``vllm-lens`` itself and applied by its model of a steering vector."""

from __future__ import annotations

import json

import pytest
import torch

from detectors.bundle import Steering
from proxy.steering.vllm_lens import VllmLens


def sent(bundle, name, strength):
    steering = Steering(bundle.vector_id(name), strength)
    return VllmLens(bundle).steered({"model": "tiny"}, steering).payload["vllm_xargs"]["apply_steering_vectors"]


@pytest.mark.parametrize(("name", "strength"), [("refusal-en", 2.0), ("refusal-zh", 1.0)])
def test_the_plugin_decodes_exactly_what_the_bundle_adds(package, bundle, name, strength):
    plugin = package("vllm_lens._activations_plugin")
    [vector] = plugin._decode_steering_vectors(sent(bundle, name, strength))
    torch.testing.assert_close(vector.activations, torch.from_numpy(bundle.addition(name).copy()), rtol=0, atol=0)
    assert vector.layer_indices == list(bundle.vector_spec(name).layers)
    assert (vector.scale, vector.norm_match, vector.position_indices) == (strength, False, None)
    assert vector.layer_index_map == {layer: row for row, layer in enumerate(bundle.vector_spec(name).layers)}


def test_our_wire_form_is_the_packages_own_without_compression(package, bundle):
    helpers = package("vllm_lens._helpers._serialize")
    rows = torch.from_numpy(bundle.addition("refusal-zh").copy())
    [order] = json.loads(sent(bundle, "refusal-zh", 1.0))
    theirs = helpers.serialize_tensor(rows)
    assert {key: order["activations"][key] for key in ("dtype", "original_dtype", "shape")} == {
        key: theirs[key] for key in ("dtype", "original_dtype", "shape")
    }
    torch.testing.assert_close(helpers.deserialize_tensor(order["activations"]), helpers.deserialize_tensor(theirs))


def test_the_plugin_refuses_a_vector_whose_shape_is_wrong(package, bundle):
    """Unlike hotwire's, its errors are loud: what it cannot read becomes an error of the request."""
    plugin = package("vllm_lens._activations_plugin")
    [order] = json.loads(sent(bundle, "refusal-zh", 1.0))
    order["layer_indices"] = [1]
    with pytest.raises(ValueError, match="layer_indices"):
        plugin._decode_steering_vectors(json.dumps([order]))
