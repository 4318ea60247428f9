"""What the proxy sends, decoded by ``vllm-lens`` itself and applied by its model of a steering vector."""

from __future__ import annotations

import json

import pytest
import torch

from detectors.bundle import Steering
from detectors.captures import CapturingReader
from detectors.judge_transport import PostResponse
from detectors.residual_wire import decoded_residuals
from detectors.verdict import Message
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_we_read_the_streams_that_the_package_sends(package, dtype):
    helpers = package("vllm_lens._helpers._serialize")
    streams = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    sent = json.loads(json.dumps(helpers.serialize_activations({"residual_stream": streams})))
    read = decoded_residuals(sent["residual_stream"], (2, 5, 8), [4, 1])
    torch.testing.assert_close(torch.from_numpy(read.copy()), streams[:, [4, 1]].float(), rtol=0, atol=0)


async def test_we_ask_for_streams_as_the_packages_own_client_does(package, bundle):
    client = package("vllm_lens.client").VLLMLensClient("http://127.0.0.1:1")
    asked = []

    async def tokenize(body):
        return PostResponse(200, b'{"tokens": [1, 2, 3]}')

    async def complete(body):
        asked.append(json.loads(body))
        return PostResponse(500, b"")

    reader = CapturingReader(bundle, tokenize=tokenize, complete=complete, max_tokens=8)
    with pytest.raises(ValueError, match="500"):
        await reader("tiny", [Message("user", "hello")])
    layers = list(bundle.manifest.probes["h"].layers)
    assert asked[0]["vllm_xargs"] == client._build_xargs(None, layers, None)


def test_the_plugin_refuses_a_vector_whose_shape_is_wrong(package, bundle):
    """Unlike hotwire's, its errors are loud: what it cannot read becomes an error of the request."""
    plugin = package("vllm_lens._activations_plugin")
    [order] = json.loads(sent(bundle, "refusal-zh", 1.0))
    order["layer_indices"] = [1]
    with pytest.raises(ValueError, match="layer_indices"):
        plugin._decode_steering_vectors(json.dumps([order]))
