"""Which headers pass in each direction, and which ones are the proxy's own."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

MODE_HEADER = "x-rass-mode"
ACTION_HEADER = "x-rass-action"
ZONE_HEADER = "x-rass-zone"
ATTEMPTS_HEADER = "x-rass-attempts"
REFUSAL_HEADER = "x-rass-refusal"
DISTANCE_HEADER = "x-rass-distance"
REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# RFC 9110 section 7.6.1, and what each HTTP implementation writes itself.
_PER_CONNECTION = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_SENT_UPSTREAM = _PER_CONNECTION | {"accept-encoding", "expect", "host", REQUEST_ID_HEADER}
_NOT_SENT_TO_CLIENT = _PER_CONNECTION | {"date", "server", REQUEST_ID_HEADER}


def new_request_id() -> str:
    """Return an id that no other request has."""
    return f"req-{secrets.token_hex(16)}"


def request_id_of(given: str) -> str:
    """Return the id that a client gave to its request where it is a plain one, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()


def forwarded_headers(headers: Mapping[str, str], request_id: str, api_key: str | None) -> dict[str, str]:
    """Return the headers to send upstream; ``api_key``, where the settings hold one, replaces the client's.

    Names are in lower case, here and in every mapping of headers.
    """
    kept = _kept(headers, _NOT_SENT_UPSTREAM)
    kept[REQUEST_ID_HEADER] = request_id
    return kept | bearer(api_key)


def bearer(api_key: str | None) -> dict[str, str]:
    """Return the header that carries a key; none without one."""
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}


def returned_headers(headers: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return an upstream's headers as the client gets them, with the proxy's ``own`` ones."""
    return {**_kept(headers, _NOT_SENT_TO_CLIENT), **own}


def _kept(headers: Mapping[str, str], dropped: frozenset[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in dropped and not name.startswith("x-rass-")}
