"""Certificates for tests: a CA, and what it issues."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import trustme
from cryptography.hazmat.primitives import serialization

LOCAL = ("localhost", "127.0.0.1")


class Authority:
    """A CA, with its certificate in a file."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.certificate = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.certificate)

    def issue(self, *names: str, common_name: str | None = None) -> trustme.LeafCert:
        return self._ca.issue_cert(*names, common_name=common_name)

    def server_files(self, directory: Path) -> dict[str, Path]:
        """Writes a new certificate for this machine; the settings of a server that uses it."""
        files = {"tls_certificate": directory / "server.pem", "tls_key": directory / "server.key"}
        write(self.issue(*LOCAL), files["tls_certificate"], files["tls_key"])
        return files

    def channel_credentials(self, certificate: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
        """Credentials of a client that trusts this CA, and shows a certificate if it has one."""
        root = self._ca.cert_pem.bytes()
        if certificate is None:
            return grpc.ssl_channel_credentials(root)
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        return grpc.ssl_channel_credentials(root, certificate.private_key_pem.bytes(), chain)

    def client_context(self) -> ssl.SSLContext:
        """How Python's own TLS trusts this CA, as a client of HTTP/2."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_alpn_protocols(["h2"])
        return context


def write(certificate: trustme.LeafCert, certificate_file: Path, key_file: Path) -> None:
    """Replaces the files of a certificate and its key, as whole files."""
    for path, blobs in (
        (certificate_file, certificate.cert_chain_pems),
        (key_file, [certificate.private_key_pem]),
    ):
        new = path.with_name(path.name + ".new")
        new.touch(mode=0o600)
        new.write_bytes(b"".join(blob.bytes() for blob in blobs))
        new.replace(path)


def encrypted(certificate: trustme.LeafCert, password: bytes = b"secret") -> bytes:
    """The key of a certificate in PEM, encrypted."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )
