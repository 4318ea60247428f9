"""What every steered request towards vLLM carries, whichever plugin steers there.

* **A salt.** vLLM shares the keys and values of equal prompt prefixes between requests. Those of a steered prompt are
  steered, and an unsteered request with the same prefix would be answered from them. ``cache_salt`` keeps apart what
  must not meet; an unsteered request keeps the salt that its client gave, or none.
* **A request id of its own.** vLLM names a request after its ``x-request-id``, and plugins find their orders by that
  name: one by its beginning, one in a table that outlives the request. With the client's id, the attempt could be
  taken for the unsteered request before it, and a later request for the attempt.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence

from detectors.bundle import Steering
from detectors.manifest import SteeringForm, SteeringSpan
from proxy.headers import REQUEST_ID_HEADER
from proxy.steering.dialect import SteeredRequest

XARGS = "vllm_xargs"
SALT = "cache_salt"
HOTWIRE_KEY = "hotwire"
VLLM_LENS_KEY = "apply_steering_vectors"
# What a client with the right to steer may have ordered; an attempt replaces all of it, as its salt covers none of it.
_ORDERS = frozenset({HOTWIRE_KEY, VLLM_LENS_KEY, "apply_hooks", "_steering_id", "_hook_id"})


def steered_salt(
    client_salt: str | None, steering: Steering, layers: Sequence[int], form: SteeringForm, span: SteeringSpan
) -> str:
    """Return the salt of a steered request: it differs whenever the client's salt or any part of the steering does."""
    parts = [client_salt, steering.vector_id, list(layers), float(steering.strength).hex(), form, span]
    return "rass-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def vllm_request(payload: Mapping[str, object], key: str, order: object, salt: str) -> SteeredRequest:
    """Return a request whose ``vllm_xargs`` hold ``order`` under ``key``, as the string that alone may stand there."""
    given = payload.get(XARGS)
    xargs = {name: value for name, value in given.items() if name not in _ORDERS} if isinstance(given, Mapping) else {}
    xargs[key] = json.dumps(order)
    return SteeredRequest(
        {**payload, XARGS: xargs, SALT: salt}, headers={REQUEST_ID_HEADER: f"rass-{uuid.uuid4().hex}"}
    )


def client_salt(payload: Mapping[str, object]) -> str | None:
    """Return the salt that the client gave; what is no string, vLLM refuses by itself."""
    salt = payload.get(SALT)
    return salt if isinstance(salt, str) else None
