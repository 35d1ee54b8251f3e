"""Asks a server on this machine how it is, whatever its port speaks."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

#: Where to ask a server that listens on every address.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- asked, not listened on

# gRPC asks the proxies of the environment even for this machine.
_NO_PROXIES = [("grpc.enable_http_proxy", 0), ("grpc.address_http_proxy_enabled_addresses", "")]


class NoAnswerError(Exception):
    """The server could not be asked; the message says why."""


def status(host: str, port: int, *, timeout: float, certificate: Path | None = None) -> str:
    """What the server says of itself as a whole: SERVING, NOT_SERVING or another status of the health service.

    Args:
        host: address that it listens on.
        port: port that it listens on.
        timeout: seconds that the answer may take.
        certificate: the server's own certificate in PEM; None if it has none. It is trusted, whatever name it is for:
            the server is asked where it listens, and not by the name that its clients know.

    Raises:
        NoAnswerError: there is no answer, or none that can be trusted.
    """
    deadline = time.monotonic() + timeout
    host = _LOOPBACK.get(host, host)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if certificate is None:
            channel = grpc.insecure_channel(address, _NO_PROXIES)
        else:
            roots = certificate.read_bytes()
            name = _a_name_of(_peer_certificate(host, port, roots, timeout))
            options = [*_NO_PROXIES, ("grpc.ssl_target_name_override", name)]
            channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(roots), options)
        with channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(
                health_pb2.HealthCheckRequest(), timeout=max(0.0, deadline - time.monotonic()), wait_for_ready=False
            )
    except grpc.RpcError as error:
        raise NoAnswerError(f"{address}: {error.code().name}: {error.details()}") from error
    except (OSError, ValueError) as error:  # those of TLS are one of them
        raise NoAnswerError(f"{address}: {error}") from error
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _peer_certificate(host: str, port: int, roots: bytes, timeout: float) -> Mapping[str, Any]:
    """The certificate that a server shows, as `ssl` reads it, which it does of those only that it can verify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=roots.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), timeout) as plain, context.wrap_socket(plain) as encrypted:
        return encrypted.getpeercert() or {}


def _a_name_of(certificate: Mapping[str, Any]) -> str:
    """A name that a certificate is for."""
    names = certificate.get("subjectAltName", ())
    for _, name in names:
        return str(name).replace("*", "any")
    raise ValueError("the certificate is for no name")
