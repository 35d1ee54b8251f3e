"""What is kept of requests that came lately."""

from archscore_server import recent
from archscore_server.recent import ByEncoding, Recent


def test_values_are_kept_by_kind_and_encoding():
    kept = Recent()
    kept.under("a").add("x", 1)
    kept.under("b").add("x", 2)
    assert kept.under("a").get("x") == 1
    assert kept.under("b").get("x") == 2
    assert kept.under("b").get("y") is None


def test_the_kind_that_was_not_asked_for_longest_goes(monkeypatch):
    monkeypatch.setattr(recent, "_MAX_KINDS", 2)
    kept = Recent()
    kept.under("a").add("x", 1)
    kept.under("b").add("x", 2)
    kept.under("a")
    kept.under("c")
    assert kept.under("a").get("x") == 1
    assert kept.under("b").get("x") is None


def test_a_kind_is_kept_for_a_while():
    now = 100.0
    kept = Recent(60, clock=lambda: now)
    kept.under("a").add("x", 1)
    now = 160.0
    assert kept.under("a").get("x") == 1
    now = 160.5  # the time counts from the first, not from the last that was asked
    assert kept.under("a").get("x") is None


def test_those_that_came_first_go_first(monkeypatch):
    monkeypatch.setattr(recent, "_MAX_ENCODINGS", 2)
    values = ByEncoding()
    for number, encoding in enumerate(("x", "y", "x", "z")):
        values.add(encoding, number)
    assert [values.get(encoding) for encoding in ("x", "y", "z")] == [None, 1, 3]


def test_long_encodings_are_not_kept(monkeypatch):
    monkeypatch.setattr(recent, "_MAX_LENGTH", 3)
    values = ByEncoding()
    values.add("xxx", 1)
    values.add("xxxx", 2)
    assert values.get("xxx") == 1
    assert values.get("xxxx") is None
