"""TLS and tokens: what a channel is made with, and whether a token may travel over it."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from archscore.errors import UsageError

SYSTEM_CA: Final = "system"
"""Instead of the name of a file with root certificates: the public ones that gRPC comes with."""

# gRPC asks the proxies of the environment even for localhost.
_NO_PROXIES: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
)
_SCHEME: Final = re.compile(r"(dns:(?:///)?|ipv4:|ipv6:|unix:|unix-abstract:)?(.*)", re.DOTALL)
_ADDRESS: Final = re.compile(r"(\[[0-9a-f:]+\]|[0-9A-Za-z.]+)(:[0-9]{1,5})?")


class TlsCredentials(grpc.ChannelCredentials):
    """Credentials that are certainly for TLS. Those that a caller made cannot be told apart."""

    def __init__(self, roots: bytes | None, key: bytes | None = None, chain: bytes | None = None) -> None:
        """As `grpc.ssl_channel_credentials`."""
        super().__init__(grpc.ssl_channel_credentials(roots, key, chain)._credentials)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Security:
    """How a client's channel is secured.

    Attributes:
        credentials: of the channel; None for plain text.
        metadata: what goes with every call; a token is here only if it goes over plain text.
        options: of the channel.
    """

    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    options: tuple[tuple[str, Any], ...] = ()


def secure(target: str, credentials: grpc.ChannelCredentials | None, token: str | None) -> Security:
    """Decides how to talk to a target.

    Args:
        target: the server's address.
        credentials: of the channel. None takes what `tls_credentials` finds in the environment.
        token: of the client. None takes $ARCHSCORE_TOKEN; without either, no token is sent.

    Raises:
        UsageError: a file or the token is not fit, or the token would travel in the clear.
    """
    if credentials is None:
        credentials = tls_credentials()
    elif not isinstance(credentials, grpc.ChannelCredentials):
        raise UsageError(f"credentials: expected grpc.ChannelCredentials, not {type(credentials).__name__}")
    if token is None:
        token = os.environ.get("ARCHSCORE_TOKEN") or None
    if token is None:
        return Security(credentials)
    _check_token(token)
    if credentials is None and not is_loopback(target):
        raise UsageError(
            f"a token is sent only over TLS or to this machine, not in plain text to {target}: "
            "give a CA ($ARCHSCORE_CA, --ca) or credentials"
        )
    if credentials is None:
        return Security(None, (("authorization", f"Bearer {token}"),), _NO_PROXIES)
    # As call credentials, which gRPC itself sends only over TLS, or with local credentials to this machine; those would
    # take a proxy on this machine for the server.
    options = () if isinstance(credentials, TlsCredentials) else _NO_PROXIES
    return Security(
        grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token)), options=options
    )


def tls_credentials(
    ca: str | None = None, certificate: str | None = None, key: str | None = None
) -> TlsCredentials | None:
    """Credentials made of PEM files; None if there is no CA.

    Args:
        ca: file of the root certificates to trust, or `SYSTEM_CA`. None takes $ARCHSCORE_CA.
        certificate: file of the client's certificate, for mutual TLS. None takes $ARCHSCORE_CERT.
        key: file of its key. None takes $ARCHSCORE_KEY.

    Raises:
        UsageError: a file cannot be read or is not what it should be, or one is missing.
    """
    ca = ca or os.environ.get("ARCHSCORE_CA")
    certificate = certificate or os.environ.get("ARCHSCORE_CERT")
    key = key or os.environ.get("ARCHSCORE_KEY")
    if bool(certificate) != bool(key):
        raise UsageError("a client certificate and its key go together: set both or neither")
    if not ca:
        if certificate:
            raise UsageError(f"a client certificate needs a CA: a file of root certificates, or {SYSTEM_CA!r}")
        return None
    roots = None if ca == SYSTEM_CA else _roots(ca)
    if not certificate or not key:
        return TlsCredentials(roots)
    chain, secret = _read("client certificate", certificate), _read("client key", key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError):
        raise UsageError(
            f"{certificate} and {key} are not a PEM certificate and its PEM key without a passphrase"
        ) from None
    return TlsCredentials(roots, secret, chain)


def read_token(path: str) -> str:
    """The token in the first line of a file.

    Raises:
        UsageError: the file cannot be read, or its first line is no token.
    """
    token = _read("token", path).partition(b"\n")[0].strip().decode("ascii", "replace")
    _check_token(token, f"token file {path}")
    return token


def is_loopback(target: str) -> bool:
    """Whether a gRPC target certainly leads to this machine and nowhere else. Where in doubt, it does not."""
    match = _SCHEME.fullmatch(target)
    scheme, rest = (match[1] or "", match[2]) if match else ("", target)
    if scheme.startswith("unix"):
        return True
    addresses = rest.split(",") if scheme in ("ipv4:", "ipv6:") else [rest]
    return all(_is_loopback_address(address) for address in addresses)


def _is_loopback_address(address: str) -> bool:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return False
    host = match[1]
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_token(token: str, name: str = "token") -> None:
    # Never with the token in the message.
    if not isinstance(token, str):
        raise UsageError(f"{name}: expected a string, not {type(token).__name__}")
    if not re.fullmatch(r"[!-~]+", token):
        raise UsageError(f"{name}: expected printable ASCII characters without spaces")


def _roots(path: str) -> bytes:
    content = _read("CA", path)
    try:
        # gRPC would find out only when it connects, and not say what is wrong.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (ValueError, ssl.SSLError):
        raise UsageError(f"CA file {path}: expected certificates in PEM") from None
    return content


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{name} file {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{name} file {path!r}: {error}") from None
