"""Clients are told apart by the name that they give, else by their connection."""

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
def test_without_a_name_connections_differ(metadata):
    assert name_of(Call(metadata)) != name_of(Call(metadata, peer="ipv4:192.0.2.1:1235"))


def test_no_name_is_taken_for_a_connection():
    peer = "ipv4:192.0.2.1:1234"
    assert name_of(Call((("archscore-client-id", peer),))) != name_of(Call((), peer))


def test_of_a_long_name_the_beginning_counts():
    assert len(name_of(Call((("archscore-client-id", "x" * 100_000),)))) < 100
