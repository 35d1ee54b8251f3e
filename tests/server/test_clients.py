"""Clients are told apart by the name that they give, else by their host."""

import pytest

from archscore_server import clients


class Call:
    def __init__(self, metadata, peer="ipv4:192.0.2.1:1234"):
        self._metadata = metadata
        self._peer = peer

    def invocation_metadata(self):
        return self._metadata

    def peer(self):
        return self._peer


def name_of(call):
    caller = clients.unknown(call)
    assert not caller.authenticated
    return caller.name


def test_a_name_is_shared_by_connections():
    named = (("user-agent", "x"), ("archscore-client-id", "search-7"))
    assert name_of(Call(named)) == name_of(Call(named, peer="ipv4:192.0.2.9:99"))


@pytest.mark.parametrize("metadata", [None, (), (("user-agent", "x"),), (("archscore-client-id", ""),)])
def test_without_a_name_a_client_is_its_host(metadata):
    name = name_of(Call(metadata))
    assert name == name_of(Call(metadata, peer="ipv4:192.0.2.1:1235"))
    assert name != name_of(Call(metadata, peer="ipv4:192.0.2.2:1234"))


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.1:1234", "192.0.2.1"),
        ("ipv6:[2001:db8:1:2:3::4]:1234", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::%5D:1234", "2001:db8:1:2::/64"),
        ("ipv6:[fe80::1%25eth0]:1234", "fe80::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1234", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:1234", "192.0.2.1"),
        ("unix:/run/archscore.sock", "unix"),
        ("unix:", "unix"),
        ("", ""),
    ],
)
def test_the_host_of_a_connection(peer, host):
    assert name_of(Call((), peer=peer)) == f"host:{host}"


def test_no_name_is_taken_for_a_host():
    host = name_of(Call(()))
    assert name_of(Call((("archscore-client-id", host),))) != host


def test_of_a_long_name_the_beginning_counts():
    assert len(name_of(Call((("archscore-client-id", "x" * 100_000),)))) < 100
