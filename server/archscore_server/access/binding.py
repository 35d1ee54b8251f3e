"""Where a server may listen: anybody on a network must be known and encrypted, on loopback nobody need be."""

from __future__ import annotations

import ipaddress
import logging
import socket

from archscore_server.access.errors import AccessError

_logger = logging.getLogger(__name__)


def check(host: str, *, encrypted: bool, authenticated: bool, insecure: bool) -> None:
    """Checks that a server may listen on an address; blocks where its name must be resolved.

    Args:
        host: the address or name.
        encrypted: whether the server speaks TLS.
        authenticated: whether callers need a token or a certificate.
        insecure: lets it pass with a warning.

    Raises:
        AccessError: it may not, or the name cannot be resolved.
    """
    missing = []
    if not encrypted:
        missing.append("encryption (--tls-certificate and --tls-key)")
    if not authenticated:
        missing.append("authentication (--tokens or --tls-client-ca)")
    if not missing or is_loopback(host):
        return
    if not insecure:
        raise AccessError(
            f"{host or 'every address'} is not loopback, and the server has no {' and no '.join(missing)}; "
            "--insecure serves all the same"
        )
    _logger.warning("%s is served without %s", host or "every address", " and without ".join(missing))


def is_loopback(host: str) -> bool:
    """Whether all addresses of a name, or this one, are of this machine alone.

    Raises:
        AccessError: the name cannot be resolved.
    """
    if not host:  # every address, though not for getaddrinfo
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AccessError(f"cannot listen on {host}: it cannot be resolved: {error}") from error
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
