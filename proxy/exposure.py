"""Whether the proxy may listen where it is told to: a public address wants keys."""

from __future__ import annotations

import ipaddress
import socket

from proxy.errors import StartupError
from proxy.keys import Keyring
from proxy.settings import Settings


def check_exposure(settings: Settings, keyring: Keyring | None) -> None:
    """Raise ``StartupError`` where anybody who reaches the port would be served without the operator having said so."""
    if settings.keys.allow_anonymous and keyring is not None:
        raise StartupError("keys.allow_anonymous and keys.file exclude each other; leave one of them out")
    if settings.keys.allow_anonymous or is_loopback(settings.host):
        return
    if keyring is None:
        raise StartupError(
            f"host {settings.host} is reachable from other machines, and there are no API keys; make one with "
            "`rass-proxy keys add NAME --file keys.json` and set keys.file, listen on 127.0.0.1, or, where something "
            "in front of the proxy authenticates, set keys.allow_anonymous = true"
        )
    if keyring.knows_example():
        raise StartupError(
            f"host {settings.host} is reachable from other machines, and {settings.keys.file} holds the example key of "
            "the documentation, which everybody knows; replace it with `rass-proxy keys rotate NAME`"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``: of a name, all addresses count, and an unknown one is public."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
