"""The dialect of the vLLM plugin ``vllm-lens``: the vector itself travels in each request.

An order is a list of steering vectors: ``activations`` (a tensor as base64 of its bytes), ``layer_indices`` and
``scale``. The plugin refuses a malformed one. It needs vLLM's eager mode and its V1 runner, and steers nothing, in
silence, where several choices are asked for.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np

from detectors.bundle import Bundle, Steering
from proxy.answers import ChatAnswer
from proxy.steering.dialect import SteeredRequest
from proxy.steering.vllm import VLLM_LENS_KEY, client_salt, steered_salt, vllm_request


class VllmLens:
    """Sends what is to be added; nothing needs to be loaded at the engine."""

    can_steer = True
    reports = False
    shares_prefixes = True

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._activations = {name: _tensor(bundle.addition(name)) for name in bundle.manifest.vectors}

    def expresses(self, steering: Steering) -> bool:
        """Return True: whatever the bundle holds can be sent."""
        return True

    def steered(self, payload: Mapping[str, object], steering: Steering) -> SteeredRequest | None:
        """Return the request with its vector, or ``None`` where several choices are asked for."""
        if payload.get("n") not in (None, 1):
            return None
        name = self._bundle.vector_name(steering.vector_id)
        layers = self._bundle.vector_spec(name).layers
        order = [
            {"activations": self._activations[name], "layer_indices": list(layers), "scale": float(steering.strength)}
        ]
        plan = self._bundle.manifest.steering
        salt = steered_salt(client_salt(payload), steering, layers, plan.form, plan.span)
        return vllm_request(payload, VLLM_LENS_KEY, order, salt)

    def did_steer(self, answer: ChatAnswer) -> bool:
        """Return True: the plugin reports nothing, and the canary watches it."""
        return True


def _tensor(rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> dict[str, object]:
    """Return a float32 tensor ``[n_layers, d]`` in the plugin's wire form without compression."""
    little_endian = np.ascontiguousarray(rows, dtype="<f4")
    return {
        "data": base64.b64encode(little_endian.tobytes()).decode("ascii"),
        "dtype": "float32",
        "original_dtype": "torch.float32",
        "shape": list(rows.shape),
    }
