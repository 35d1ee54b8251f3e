"""TLS from files: the server's certificate and key, and the CA of its clients' certificates."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import grpc

from archscore_server.access import files
from archscore_server.access.errors import AccessError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificates are, all in PEM.

    Attributes:
        certificate: the server's, and after it those of the CAs between it and the root.
        key: its private key, not encrypted.
        client_ca: the CAs of clients' certificates; None where clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
        """Puts the files together, some of which may not be given; None where there is to be no TLS.

        Raises:
            AccessError: one was not given that the others need.
        """
        if certificate and key:
            return cls(certificate, key, client_ca)
        if certificate or key or client_ca:
            raise AccessError("TLS needs both --tls-certificate and --tls-key")
        return None


def server_credentials(paths: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of a server. Files that have changed are used from the next connection on.

    gRPC takes TLS 1.2 and 1.3. With a client CA, a client without a certificate of it gets no connection.

    Raises:
        AccessError: the files cannot be used.
    """
    renewal = _Renewal(paths)
    return grpc.dynamic_ssl_server_credentials(
        renewal.start(),
        renewal.fetch,  # type: ignore[arg-type]  # None is in gRPC's documentation, and not in the stubs
        require_client_authentication=paths.client_ca is not None,
    )


class _Renewal:
    """Has the certificates read when their files change. gRPC asks on each new connection, on threads of its own."""

    def __init__(self, paths: TlsFiles) -> None:
        self._paths = paths
        self._watch = files.Watch(*(path for path in (paths.certificate, paths.key, paths.client_ca) if path))
        self._lock = threading.Lock()

    def start(self) -> grpc.ServerCertificateConfiguration:
        """Reads the files for the first time."""
        configuration = load(self._paths)
        files.warn_if_others_can_read(self._paths.key)
        return configuration

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What is new since the last time; None has gRPC keep what it has."""
        with self._lock:
            if not self._watch.due():
                return None
            try:
                configuration = load(self._paths)
            except AccessError as error:
                if self._watch.failed():
                    _logger.error("%s: the certificates of before stay in use", error)  # noqa: TRY400
                return None
            _logger.info("the certificates have been renewed")
            return configuration


def load(paths: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Reads the files and checks that they can be used.

    Raises:
        AccessError: they cannot; the message says which one and why.
    """
    certificate, key = files.read(paths.certificate), files.read(paths.key)
    _check_certificates(paths.certificate, certificate)
    _check_key(paths, certificate, key)
    client_ca = None
    if paths.client_ca:
        client_ca = files.read(paths.client_ca)
        _check_certificates(paths.client_ca, client_ca)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _check_certificates(path: Path, content: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise AccessError(f"{path} has no certificate in PEM") from error


def _check_key(paths: TlsFiles, certificate: bytes, key: bytes) -> None:
    def no_password() -> NoReturn:
        raise AccessError(f"{paths.key} is encrypted: give a key that is not")

    # Of what has been read and not of the files, which may change meanwhile; but `ssl` takes files only.
    with _in_memory(key + b"\n" + certificate) as path:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a password at hand, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(path, password=no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise AccessError(f"{paths.key} is not the key of {paths.certificate}") from error
            raise AccessError(f"{paths.key} has no private key in PEM that can be used") from error


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Makes a file that is on no disk, and gives its path."""
    try:
        with open(os.memfd_create("pem"), "wb") as memory:  # noqa: PTH123 -- of a descriptor
            memory.write(content)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
    except ssl.SSLError:
        raise
    except OSError as error:
        raise AccessError(f"certificates cannot be checked: {error.strerror}") from error
