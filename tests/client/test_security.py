"""TLS and tokens: who the client talks to, and that a token goes nowhere else."""

from __future__ import annotations

import logging
import re
import socket
import threading

import grpc
import grpc.experimental
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

import archscore
import puppet_server
from archscore import AsyncClient, Client, _security
from puppet_server import Fault, status

TOKEN = "as_quite-Secret.0"
BEARER = f"Bearer {TOKEN}"


def tls(certificates):
    return grpc.ssl_channel_credentials(certificates.ca.read_bytes())


# Where a token may go


@pytest.mark.parametrize(
    "target",
    [
        "localhost",
        "localhost:50051",
        "LocalHost:50051",
        "127.0.0.1",
        "127.0.0.1:50051",
        "127.255.3.4:1",
        "[::1]:50051",
        "[::1]",
        "dns:localhost:50051",
        "dns:///localhost:50051",
        "dns:///127.0.0.1:50051",
        "dns:///[::1]:50051",
        "ipv4:127.0.0.1:50051",
        "ipv4:127.0.0.1:50051,127.0.0.2:50052",
        "ipv6:[::1]:50051,[::1]:50052",
        "unix:/run/archscore.sock",
        "unix:///run/archscore.sock",
        "unix:relative.sock",
        "unix-abstract:archscore",
    ],
)
def test_loopback(target):
    assert _security.is_loopback(target)


@pytest.mark.parametrize(
    "target",
    [
        "",
        ":50051",
        "example.org:50051",
        "localhost.evil.com:50051",
        "localhost.:50051",
        "evil.localhost:50051",
        "127.0.0.1.nip.io:50051",
        "127.0.0.1@evil.com:50051",
        "127.1:50051",
        "0127.0.0.1:50051",
        "2130706433:50051",
        "0x7f.0.0.1:50051",
        "0.0.0.0:50051",
        "[::]:50051",
        "[::2]:50051",
        "128.0.0.1:50051",
        "10.0.0.1:50051",
        "ipv4:127.0.0.1:50051,10.0.0.1:50051",
        "ipv4:",
        "ipv6:[::1]:50051,[2001:db8::1]:50051",
        "localhost:50051,evil.com:50051",
        "dns://8.8.8.8/localhost:50051",
        "dns:////localhost:50051",
        "dns:///localhost%2eevil.com:50051",
        "dns:///localhost%2Eevil.com",
        "DNS:///localhost:50051",
        "UNIX:/run/archscore.sock",
        "xds:///localhost:50051",
        "google-c2p:///localhost:50051",
        "http://localhost:50051",
        "localhost:50051/evil",
        "localhost:50051\n",
        " localhost:50051",
        "localho\u017ft:50051",
        "127.0.0.\u0661:50051",
        "vsock:1:1",
    ],
)
def test_no_loopback(target):
    assert not _security.is_loopback(target)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("by_environment", [False, True])
def test_a_token_does_not_leave_the_machine_in_plain_text(kind, by_environment, monkeypatch):
    if by_environment:
        monkeypatch.setenv("ARCHSCORE_TOKEN", TOKEN)
    with pytest.raises(archscore.UsageError, match=r"only over TLS.*evil\.com.*ARCHSCORE_CA") as caught:
        kind("localhost.evil.com:50051", token=None if by_environment else TOKEN)
    assert TOKEN not in f"{caught.value!r} {caught.value}"


def test_without_a_token_any_target_will_do(connect):
    assert connect("example.org:50051").client.target == "example.org:50051"


def test_a_token_goes_to_this_machine_in_plain_text(connect, network, puppet, capfd):
    driver = connect(network.address, token=TOKEN, client_id="me")
    driver.call("server_info")
    assert [result["tcet"] for result in driver.many(["a", "b"], ["tcet"], chunk_size=1)]
    assert puppet.authorizations == [[BEARER]] * 3
    assert set(puppet.client_ids) == {"me"}
    assert TOKEN.encode() in network.sent, "or else tests that look for it in what is sent prove nothing"
    assert capfd.readouterr().err == "", "gRPC itself has nothing to complain of"


def test_a_token_of_the_environment(connect, target, puppet, monkeypatch):
    monkeypatch.setenv("ARCHSCORE_TOKEN", TOKEN)
    connect(target).call("server_info")
    connect(target, token="another").call("server_info")
    monkeypatch.setenv("ARCHSCORE_TOKEN", "")
    connect(target).call("server_info")
    assert puppet.authorizations == [[BEARER], ["Bearer another"], []]


def test_a_token_over_a_unix_socket(connect, puppet, tmp_path):
    address = f"unix:{tmp_path}/socket"
    server, _ = puppet_server.start(puppet, address=address)
    connect(address, token=TOKEN).call("server_info")
    server.stop(0).wait()
    assert puppet.authorizations == [[BEARER]]


def test_a_token_over_tls(connect, serve, puppet, certificates):
    port = serve(certificates.credentials())
    driver = connect(f"localhost:{port}", credentials=tls(certificates), token=TOKEN)
    driver.call("server_info")
    assert [result["tcet"] for result in driver.many(["a", "b"], ["tcet"], chunk_size=1)]
    assert puppet.authorizations == [[BEARER]] * 3


PLAIN = grpc.experimental.insecure_channel_credentials()


@pytest.mark.parametrize(
    "credentials",
    [
        PLAIN,
        grpc.xds_channel_credentials(PLAIN),
        grpc.composite_channel_credentials(PLAIN, grpc.access_token_call_credentials("other")),
    ],
    ids=["insecure", "xds", "composite"],
)
def test_a_token_is_not_sent_with_credentials_for_plain_text(connect, network, puppet, credentials):
    driver = connect(network.address, credentials=credentials, token=TOKEN)
    with pytest.raises(archscore.AuthenticationError, match="security level"):
        driver.call("server_info")
    assert not puppet.requests
    assert network.sent
    assert TOKEN.encode() not in network.sent


@pytest.mark.parametrize("credentials", [None, grpc.local_channel_credentials()], ids=["none", "local"])
@pytest.mark.parametrize(
    "variables",
    [
        {"http_proxy": "http://{}"},
        {"grpc_proxy": "http://{}"},
        {"GRPC_ADDRESS_HTTP_PROXY": "{}", "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": "127.0.0.0/8"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_a_token_in_plain_text_takes_no_proxy(connect, target, network, puppet, variables, credentials, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(network.address))
    connect(target, credentials=credentials, token=TOKEN).call("server_info")
    assert puppet.authorizations == [[BEARER]]
    assert not network.sent


def test_proxies_are_used_with_tls(connect, serve, certificates, monkeypatch):
    """A tunnel to the server: what is in it, the proxy cannot read."""
    port = serve(certificates.credentials())
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        asked = []

        def refuse():
            connection, _ = proxy.accept()
            with connection:
                asked.append(connection.recv(1000))

        thread = threading.Thread(target=refuse)
        thread.start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("ARCHSCORE_CA", str(certificates.ca))
        with pytest.raises(archscore.UnavailableError):
            connect(f"localhost:{port}", token=TOKEN, connect_timeout=0.2).call("server_info")
        thread.join()
    assert asked[0].startswith(f"CONNECT localhost:{port}".encode())
    assert TOKEN.encode() not in asked[0]


# What a token may be, and that it is never shown


@pytest.mark.parametrize(
    "token", ["", " ", "two words", "line\nbreak", "tab\t", "\u00fcmlaut", "nul\0", "\udcff", "x\x7f"]
)
def test_a_token_that_is_none(token):
    with pytest.raises(archscore.UsageError, match=r"^token: expected printable ASCII") as caught:
        Client("localhost:1", token=token)
    assert not token.strip() or token not in f"{caught.value!r} {caught.value}"


def test_a_token_of_another_type():
    with pytest.raises(archscore.UsageError, match=r"^token: expected a string, not bytes$"):
        Client("localhost:1", token=TOKEN.encode())


@pytest.mark.parametrize("secured", [False, True])
def test_a_token_is_never_shown(connect, serve, puppet, certificates, secured, caplog):
    caplog.set_level(logging.DEBUG)
    port = serve(certificates.credentials() if secured else None)
    driver = connect(f"localhost:{port}", credentials=tls(certificates) if secured else None, token=TOKEN)
    client = driver.client
    puppet.script.extend([Fault(puppet_server.UNAVAILABLE), Fault(status(grpc.StatusCode.UNAUTHENTICATED))] * 2)
    shown = [repr(client), str(client), repr(client._security), repr(client._channel_options())]
    for ask in (lambda: driver.call("server_info"), lambda: list(driver.many(["x"], ["tcet"]))):
        with pytest.raises(archscore.AuthenticationError) as caught:
            ask()
        shown += [repr(caught.value), str(caught.value), repr(caught.value.__context__), str(caught.value.status)]
    assert caplog.records
    assert puppet.authorizations == [[BEARER]] * 4
    assert TOKEN not in "\n".join([*shown, caplog.text])


# Refusals


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
def test_a_refusal_is_final(driver, puppet, code):
    puppet.script.extend([Fault(status(code, "no", reason="TOKEN_INVALID"))] * 2)
    for ask in (lambda: driver.call("score", "x", ["tcet"]), lambda: list(driver.many(["x"], ["tcet"]))):
        with pytest.raises(archscore.AuthenticationError, match=r"^no$") as caught:
            ask()
        assert (caught.value.code, caught.value.reason) == (code.name, "TOKEN_INVALID")
    assert len(puppet.requests) == 2
    assert not driver.sleeps


def test_a_token_that_is_revoked_ends_a_stream(driver, puppet):
    puppet.script.append(Fault(status(grpc.StatusCode.UNAUTHENTICATED, "no"), after=2))
    results = driver.many(["a", "b", "c"], ["tcet"])
    assert next(results)["tcet"]
    with pytest.raises(archscore.AuthenticationError):
        list(results)
    assert len(puppet.requests) == 1


class Failing(grpc.AuthMetadataPlugin):
    def __call__(self, context, callback):
        callback((), RuntimeError("the vault is closed"))


def test_call_credentials_of_the_caller_that_fail(connect, serve, certificates):
    credentials = grpc.composite_channel_credentials(tls(certificates), grpc.metadata_call_credentials(Failing()))
    driver = connect(f"localhost:{serve(certificates.credentials())}", credentials=credentials, connect_timeout=0.2)
    with pytest.raises(archscore.ArchscoreError, match="the vault is closed"):
        driver.call("server_info")


# TLS


def test_tls_by_the_environment(connect, serve, certificates, monkeypatch):
    monkeypatch.setenv("ARCHSCORE_CA", str(certificates.ca))
    assert connect(f"127.0.0.1:{serve(certificates.credentials())}").call("server_info")


def test_mutual_tls_by_the_environment(connect, serve, certificates, monkeypatch):
    certificate, key = certificates.client
    for name, path in (("CA", certificates.ca), ("CERT", certificate), ("KEY", key)):
        monkeypatch.setenv(f"ARCHSCORE_{name}", str(path))
    assert connect(f"127.0.0.1:{serve(certificates.credentials(mutual=True))}").call("server_info")


def test_credentials_go_before_the_environment(connect, serve, certificates, monkeypatch):
    monkeypatch.setenv("ARCHSCORE_CA", "/nowhere")
    monkeypatch.setenv("ARCHSCORE_KEY", "/nowhere")
    driver = connect(f"localhost:{serve(certificates.credentials())}", credentials=tls(certificates))
    assert driver.call("server_info")


HANDSHAKES = {
    # server, CA that the client trusts, what the error says
    "another CA": ({}, "other_ca", "CERTIFICATE_VERIFY_FAILED"),
    "public CAs": ({}, "system", "CERTIFICATE_VERIFY_FAILED"),
    "another name": ({"elsewhere": True}, "ca", "Hostname Verification|Peer name"),
    "server without TLS": (None, "ca", "handshake failed"),
    "client without TLS": ({}, None, "expect TLS"),
    "client without certificate": ({"mutual": True}, "ca", "client certificate"),
}


@pytest.mark.parametrize("handshake", HANDSHAKES)
def test_a_handshake_that_fails(connect, serve, puppet, certificates, handshake, monkeypatch):
    settings, ca, says = HANDSHAKES[handshake]
    if ca is not None:
        monkeypatch.setenv("ARCHSCORE_CA", str(getattr(certificates, ca, ca)))
    port = serve(None if settings is None else certificates.credentials(**settings))
    driver = connect(f"127.0.0.1:{port}", token=TOKEN, connect_timeout=1)
    with pytest.raises(archscore.UnavailableError, match=rf"no answer from 127\.0\.0\.1:{port}: ") as caught:
        driver.call("server_info")
    assert re.search(says, str(caught.value))
    assert TOKEN not in str(caught.value)
    assert not puppet.requests


FILES = {
    "no CA file": ({"CA": "nothing"}, "CA file .*nothing: No such file"),
    "a directory": ({"CA": "."}, "CA file .*: Is a directory"),
    "not PEM": ({"CA": "text"}, "CA file .*text: expected certificates in PEM"),
    "a key for a CA": ({"CA": "key"}, "CA file .*key: expected certificates in PEM"),
    "a broken certificate": ({"CA": "broken"}, "CA file .*broken: expected certificates in PEM"),
    "a certificate without a key": ({"CA": "ca", "CERT": "cert"}, "go together"),
    "a key without a certificate": ({"CA": "ca", "KEY": "key"}, "go together"),
    "no CA": ({"CERT": "cert", "KEY": "key"}, "needs a CA"),
    "no certificate file": (
        {"CA": "ca", "CERT": "nothing", "KEY": "key"},
        "client certificate file .*nothing: No such",
    ),
    "no key file": ({"CA": "ca", "CERT": "cert", "KEY": "nothing"}, "client key file .*nothing: No such file"),
    "the key of another": ({"CA": "ca", "CERT": "cert", "KEY": "other"}, "cert and .*other are not a PEM certificate"),
    "a key with a passphrase": ({"CA": "ca", "CERT": "cert", "KEY": "locked"}, "locked are not .* passphrase"),
}


@pytest.fixture
def files(certificates, tmp_path):
    """A directory with files for certificates, some of which are not."""
    key = certificates.client[1].read_bytes()
    content = {
        "ca": certificates.ca.read_bytes(),
        "cert": certificates.client[0].read_bytes(),
        "key": key,
        "other": certificates.server[1].read_bytes(),
        "text": b"\xff no certificate",
        "broken": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "locked": load_pem_private_key(key, None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        ),
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_not_fit(files, case, monkeypatch):
    variables, says = FILES[case]
    for name, file in variables.items():
        monkeypatch.setenv(f"ARCHSCORE_{name}", str(files / file))
    with pytest.raises(archscore.UsageError, match=says):
        Client("localhost:1")


def test_a_ca_file_may_have_notes_in_any_encoding(connect, serve, certificates, tmp_path, monkeypatch):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(
        "# Größte CA\n".encode("latin-1") + certificates.other_ca.read_bytes() + certificates.ca.read_bytes()
    )
    monkeypatch.setenv("ARCHSCORE_CA", str(bundle))
    assert connect(f"localhost:{serve(certificates.credentials())}").call("server_info")


def test_credentials_of_another_type():
    with pytest.raises(archscore.UsageError, match=re.escape("expected grpc.ChannelCredentials, not str")):
        Client("localhost:1", credentials="ca.pem")
