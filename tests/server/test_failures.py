from __future__ import annotations

from archscore_server._failures import Failures


def test_a_failure_is_remembered_for_ten_minutes() -> None:
    failures = Failures()
    failures.add("this", "why", now=100)
    assert failures.get("this", now=699) == "why"
    assert failures.get("other", now=699) is None
    assert failures.get("this", now=700) is None
    assert not failures._failures


def test_the_oldest_is_forgotten_first() -> None:
    failures = Failures()
    for number in range(1_001):
        failures.add(number, "why", now=0)
    assert failures.get(0, now=1) is None
    assert failures.get(1, now=1) == "why"
    assert len(failures._failures) == 1_000
