"""Who calls, and whether they may."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import grpc
from google.rpc import code_pb2, error_details_pb2

from archscore_server import clients, errors
from archscore_server.clients import Caller
from archscore_server.errors import RequestError

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]]

#: Methods that everybody may call: load balancers and service managers have no tokens.
_OPEN = "grpc.health.v1.Health/"


class Owners(Protocol):
    """Knows tokens."""

    def owner(self, token: str) -> str | None:
        """The name of a token; None for any other text."""


class Authentication:
    """A token names the caller where there are tokens, else the certificate, which TLS has checked."""

    def __init__(self, tokens: Owners | None, *, certificates: bool) -> None:
        """Takes what callers need: a token, a certificate, both or nothing.

        Args:
            tokens: those in force; None where callers need none.
            certificates: whether the connection of each caller has a certificate.
        """
        self._tokens = tokens
        self._certificates = certificates

    def admit(self, method: str, metadata: Metadata) -> str | None:
        """Lets a call pass, before anything but its metadata is read.

        Args:
            method: as in `package.Service/Method`.
            metadata: of the call.

        Returns:
            The name of its token; None where it needs none.

        Raises:
            RequestError: UNAUTHENTICATED.
        """
        if self._tokens is None or method.startswith(_OPEN):
            return None
        found = [value for key, value in metadata if key == "authorization"]
        if not found:
            raise _unauthenticated("TOKEN_MISSING", "this server needs a token: metadata authorization: Bearer TOKEN")
        owner = self._tokens.owner(_token(found))
        if owner is None:
            raise _unauthenticated("TOKEN_INVALID", "the token is not one of this server's")
        return owner

    def caller(self, token_owner: str | None, context: Context) -> Caller:
        """Who makes a call.

        Args:
            token_owner: what `admit` gave.
            context: of the call.
        """
        if token_owner is not None:
            return Caller(f"token:{token_owner}", authenticated=True)
        if self._certificates:
            return Caller(f"certificate:{_subject(context.auth_context())}", authenticated=True)
        return clients.unknown(context)


def _token(headers: Sequence[str | bytes]) -> str:
    """The token in the headers of a call; empty if they are not exactly one that has one."""
    scheme, _, token = str(headers[0]).partition(" ")
    return token.strip() if len(headers) == 1 and scheme.lower() == "bearer" else ""


def _subject(properties: Mapping[str, Iterable[bytes]]) -> str:
    """The name in a certificate: the common name, else the first alternative one, else its hash."""
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        for name in properties.get(key, ()):
            if name:
                text = name.decode(errors="replace")
                return "".join(c if c.isprintable() else "?" for c in text)[: clients.MAX_LENGTH]
    return hashlib.sha256(b"".join(properties.get("x509_pem_cert", ()))).hexdigest()[: clients.MAX_LENGTH]


def _unauthenticated(reason: str, message: str) -> RequestError:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=errors.DOMAIN)
    return RequestError(errors.status(code_pb2.UNAUTHENTICATED, message, info))
