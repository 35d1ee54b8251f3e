from __future__ import annotations

from archscore_server._priority import Ageing, Priority

BULK, DEFAULT, INTERACTIVE = Priority


def test_the_exact_order_when_all_wait() -> None:
    ageing = Ageing()
    order = [ageing.next(list(Priority)) for _ in range(18)]
    # Both age together; the more urgent of the two goes first.
    assert order == [*[INTERACTIVE] * 7, DEFAULT, BULK] * 2


def test_who_does_not_wait_does_not_age() -> None:
    ageing = Ageing()
    for _ in range(6):
        assert ageing.next([BULK, DEFAULT]) is DEFAULT
    assert ageing.next([DEFAULT]) is DEFAULT
    assert [ageing.next([BULK, DEFAULT]) for _ in range(8)] == [*[DEFAULT] * 7, BULK]


def test_alone_the_least_urgent_goes_at_once() -> None:
    assert Ageing().next([BULK]) is BULK
