"""Where a server may listen, and with what."""

import socket

import pytest

from archscore_server.access import binding
from archscore_server.access.errors import AccessError

LOOPBACK = ["127.0.0.1", "127.8.9.10", "::1", "localhost"]
ELSEWHERE = ["0.0.0.0", "::", "", "192.0.2.1", "2001:db8::1", "fe80::1", "::ffff:192.0.2.1"]


@pytest.fixture
def resolved(monkeypatch):
    """What names are resolved to."""
    addresses = {}
    genuine = socket.getaddrinfo

    def getaddrinfo(host, port, **options):
        if host not in addresses:
            return genuine(host, port, flags=socket.AI_NUMERICHOST, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    addresses["localhost"] = ["127.0.0.1", "::1"]
    return addresses


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback(resolved, host):
    assert binding.is_loopback(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_elsewhere(resolved, host):
    assert not binding.is_loopback(host)


@pytest.mark.parametrize(
    ("addresses", "loopback"),
    [(["127.0.0.1"], True), (["127.0.0.1", "::1"], True), (["127.0.0.1", "192.0.2.1"], False), (["10.0.0.1"], False)],
)
def test_all_addresses_of_a_name_count(resolved, addresses, loopback):
    resolved["name.example"] = addresses
    assert binding.is_loopback("name.example") == loopback


@pytest.mark.parametrize("host", ["no.such.host.invalid", "not a host", "a" * 300, "\udcff"])
def test_what_cannot_be_resolved(resolved, host):
    with pytest.raises(AccessError, match="cannot be resolved"):
        binding.is_loopback(host)


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("authenticated", [False, True])
def test_loopback_needs_nothing(resolved, caplog, host, encrypted, authenticated):
    binding.check(host, encrypted=encrypted, authenticated=authenticated, insecure=False)
    assert not caplog.records


@pytest.mark.parametrize("host", ELSEWHERE)
@pytest.mark.parametrize(
    ("has", "missing"),
    [
        ((False, False), ["encryption (--tls-certificate and --tls-key)", "(--tokens or --tls-client-ca)"]),
        ((True, False), ["(--tokens or --tls-client-ca)"]),
        ((False, True), ["encryption (--tls-certificate and --tls-key)"]),
        ((True, True), []),
    ],
)
def test_elsewhere_both_are_needed(resolved, caplog, host, has, missing):
    encrypted, authenticated = has
    options = {"encrypted": encrypted, "authenticated": authenticated}
    if not missing:
        binding.check(host, **options, insecure=False)
        return
    with pytest.raises(AccessError, match="--insecure") as caught:
        binding.check(host, **options, insecure=False)
    assert [part in str(caught.value) for part in missing] == [True] * len(missing)
    assert ("encryption" in str(caught.value)) == (not encrypted)
    assert ("authentication" in str(caught.value)) == (not authenticated)
    assert not caplog.records

    binding.check(host, **options, insecure=True)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert [part in record.getMessage() for part in missing] == [True] * len(missing)
    assert ("encryption" in record.getMessage()) == (not encrypted)


def test_who_needs_nothing_resolves_nothing(resolved):
    binding.check("no.such.host.invalid", encrypted=True, authenticated=True, insecure=False)
