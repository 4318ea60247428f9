"""Fields that steer an engine or reach inside of it: found in any body that could carry them, and refused.

What cannot be looked through is refused as well, since a field that the proxy does not see may be one that the engine
obeys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from proxy.errors import InvalidBody, SteeringNotPermitted, UnsupportedBody

# Orders to steering plugins; transfers of caches between engines; and what some engines unpickle, import or load.
STEERING_FIELDS = (
    "rass",
    "vllm_xargs",
    "kv_transfer_params",
    "ec_transfer_params",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "custom_logit_processor",
    "logits_processors",
    "prompt_embeds",
)
# Some gateways merge this object into the request.
_MERGED = "extra_body"

_MULTIPART = "multipart/form-data"
_DISPOSITION = re.compile(rb"content-disposition[ \t]*:([^\r\n]*)", re.IGNORECASE)
_FIELD_NAME = re.compile(rb'[ \t]*form-data[ \t]*;[ \t]*name="?([A-Za-z0-9_.-]+)[][A-Za-z0-9_.-]*"?[ \t]*(?:;.*)?')
_SECOND_NAME = re.compile(rb";[ \t]*name[ \t]*\*?[ \t]*=", re.IGNORECASE)


def parse_object(body: bytes) -> dict[str, object]:
    """Return a body's JSON object; raises ``InvalidBody``."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidBody(f"the request body is not valid JSON: {reason}") from error
    if not isinstance(payload, dict):
        raise InvalidBody(f"the request body must be a JSON object, not {type(payload).__name__}")
    return payload


def refuse_steering(payload: Mapping[str, object]) -> None:
    """Raise ``SteeringNotPermitted`` where a JSON body steers the engine."""
    _refuse(payload)
    merged = payload.get(_MERGED)
    if isinstance(merged, Mapping):
        _refuse(merged)


def refuse_steering_in(body: bytes, content_type: str) -> None:
    """Look through the body of a relayed path: a JSON object, or a form with files.

    Raises ``SteeringNotPermitted``, ``InvalidBody``, or ``UnsupportedBody`` for what is neither.
    """
    if not is_form(content_type):
        refuse_steering(parse_object(body))
        return
    # The beginning is what tells a form from JSON under a false name; every line that could name a field is looked at,
    # wherever a parser other than ours would see the parts begin.
    if not body.startswith(b"--"):
        raise UnsupportedBody(f"the request body is no {_MULTIPART}, as its content-type says; send what it names")
    _refuse(_form_fields(body))


def is_form(content_type: str) -> bool:
    """Whether a body calls itself a form with files."""
    return content_type.lower().startswith(_MULTIPART)


def _form_fields(body: bytes) -> list[str]:
    names: list[str] = []
    for line in _DISPOSITION.finditer(body):
        named = _FIELD_NAME.fullmatch(line[1])
        if named is None or len(_SECOND_NAME.findall(line[1])) > 1:
            raise UnsupportedBody(
                'a part of the form has no plain name; write content-disposition: form-data; name="field", with '
                "letters, digits, dots, dashes and underscores"
            )
        names.append(named[1].decode())
    return names


def _refuse(names: Iterable[str]) -> None:
    for name in names:
        if name in STEERING_FIELDS:
            raise SteeringNotPermitted(
                f"the field {name!r} steers the engine and is not accepted from clients; leave it out, or ask the "
                "operator for a key with the right client-steering",
                param=name,
            )
