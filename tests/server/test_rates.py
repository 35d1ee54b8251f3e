from __future__ import annotations

import pytest

from archscore_server._rates import Pace, Rates


def test_what_was_not_measured_is_hopeless_never() -> None:
    pace = Pace()
    assert pace.expected == 1.0
    assert pace.at_best(1_000, now=0) == 0


def test_at_best_all_goes_twice_as_fast() -> None:
    pace = Pace()
    pace.update(4.0, full=True, now=0)
    assert pace.at_best(0, now=0) == 2
    assert pace.at_best(3, now=0) == 8


def test_the_average_follows_what_is_measured() -> None:
    pace = Pace()
    pace.update(1.0, full=False, now=0)
    for _ in range(50):
        pace.update(3.0, full=False, now=0)
    assert pace.expected == pytest.approx(3, rel=0.01)


def test_kinds_are_measured_apart_and_the_oldest_are_forgotten() -> None:
    rates = Rates()
    rates.pace("first").update(9.0, full=True, now=0)
    assert rates.pace("other").expected == 1.0
    assert rates.pace("first").expected == 9.0
    for number in range(1_000):
        rates.pace(number)
    assert len(rates._paces) == 256
    assert rates.pace("first").expected == 1.0
