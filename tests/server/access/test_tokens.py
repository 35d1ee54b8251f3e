"""Tokens and their records."""

import re

import pytest

from archscore_server.access import tokens
from archscore_server.access.tokens import Record

SALT, HASH = "00" * 16, "ab" * 32


def test_a_token_has_its_name_and_256_random_bits():
    token, record = tokens.generate("search-7")
    assert re.fullmatch(r"archscore\.search-7\.[A-Za-z0-9_-]{43}", token)
    assert record.name == "search-7"
    assert tokens.generate("search-7")[0] != token


def test_only_the_token_itself_has_an_owner():
    (token, alice), (other, bob) = tokens.generate("alice"), tokens.generate("bob")
    records = {"alice": alice, "bob": bob}
    assert tokens.owner(token, records) == "alice"
    assert tokens.owner(other, records) == "bob"
    _, _, secret = token.split(".")
    wrong = [
        "",
        ".",
        "..",
        "archscore..",
        "archscore.alice.",
        "archscore.alice",
        secret,
        f"archscore.bob.{secret}",
        f"archscore.carol.{secret}",
        f"archscore.ALICE.{secret}",
        f"Archscore.alice.{secret}",
        f"alice.{secret}",
        f"{token}.",
        f"{token}x",
        token[:-1],
        f" {token}",
        f"archscore.alice.{secret.swapcase()}",
        f"archscore.alice.{alice.hash.hex()}",
        f"archscore.alice.{alice.format()}",
        "\udcff\U0001f600.é.\0",
        "archscore.alice.\udcff",
        "x" * 1_000_000,
    ]
    assert {text: tokens.owner(text, records) for text in wrong if tokens.owner(text, records)} == {}
    assert tokens.owner(token, {}) is None


def test_a_name_that_is_not_there_is_compared_too(monkeypatch):
    compared = []
    matches = Record.matches
    monkeypatch.setattr(Record, "matches", lambda record, secret: compared.append(record) or matches(record, secret))
    token, record = tokens.generate("alice")
    for text in (token, "archscore.alice.wrong", "archscore.bob.wrong", "nonsense"):
        tokens.owner(text, {"alice": record})
    assert len(compared) == 4


def test_a_record_does_not_have_the_secret_and_is_salted():
    token, record = tokens.generate("alice")
    line = record.format()
    assert token.split(".")[2] not in line
    assert len({tokens.generate("alice")[1].salt for _ in range(10)}) == 10
    assert re.fullmatch(r"alice sha256 [0-9a-f]{32} [0-9a-f]{64}", line)


def test_the_format_is_the_one_of_files_that_are_there():
    record = tokens.parse(
        "ci sha256 000102030405060708090a0b0c0d0e0f a07c53e9f063bbc8e6270cac5eeed7f4bf1dd6e318b459e2bf61b0d3f01488e4"
    )
    assert tokens.owner("archscore.ci.c2VjcmV0", {"ci": record}) == "ci"


def test_lines_are_read_as_they_were_written():
    _, record = tokens.generate("a" * 64)
    assert tokens.parse(record.format()) == record


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("alice", "NAME SCHEME SALT HASH"),
        (f"alice sha256 {SALT} {HASH} more", "NAME SCHEME SALT HASH"),
        (f"al.ice sha256 {SALT} {HASH}", "the name"),
        (f"{'a' * 65} sha256 {SALT} {HASH}", "the name"),
        (f"alice md5 {SALT} {HASH}", "the scheme"),
        (f"alice sha256 {SALT} {HASH[:-2]}", "hash"),
        (f"alice sha256 {SALT} {HASH[:-2]}AB", "hexadecimal"),
        (f"alice sha256 {SALT[:-1]} {HASH}", "hexadecimal"),
        (f"alice sha256 salt {HASH}", "hexadecimal"),
    ],
)
def test_what_is_wrong_with_a_line(line, message):
    with pytest.raises(ValueError, match=message) as caught:
        tokens.parse(line)
    assert HASH[:10] not in str(caught.value)


@pytest.mark.parametrize("name", ["a", "A-z_09", "-", "a" * 64])
def test_names(name):
    assert tokens.is_name(name)


@pytest.mark.parametrize("name", ["", "a" * 65, "a.b", "a b", "a\n", "é", "a/b", "#a"])
def test_what_is_no_name(name):
    assert not tokens.is_name(name)
