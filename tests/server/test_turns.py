from __future__ import annotations

from archscore_server._turns import Turns


def serve(turns: Turns, client: str, seconds: float) -> None:
    turns.next(client)
    turns.charge(client, seconds)


def test_who_comes_is_where_the_last_one_served_was() -> None:
    turns = Turns()
    turns.enter("early")
    for _ in range(3):
        serve(turns, "early", 2)
    turns.enter("late")
    assert (turns.time("early"), turns.time("late")) == (6, 4)


def test_a_debt_outlives_an_absence_but_not_the_others_catching_up() -> None:
    turns = Turns()
    turns.enter("stays")
    for name in ("slow", "quick"):
        turns.enter(name)
        turns.charge(name, 10 if name == "slow" else 1)
        turns.leave(name)
    for _ in range(3):
        serve(turns, "stays", 2)
    turns.enter("slow")
    turns.enter("quick")
    assert (turns.time("slow"), turns.time("quick")) == (10, 4)


def test_debts_end_when_nobody_is_left() -> None:
    turns = Turns()
    turns.enter("one")
    serve(turns, "one", 10)
    turns.leave("one")
    assert len(turns) == 0
    turns.enter("one")
    assert turns.time("one") == 0


def test_connections_that_come_and_go_do_not_fill_the_memory() -> None:
    turns = Turns()
    turns.enter("0")
    for number in range(5_000):
        serve(turns, f"{number}", 1)
        turns.enter(f"{number + 1}")
        turns.leave(f"{number}")
    assert len(turns) == 1
    assert len(turns._times) == 1
    assert len(turns._debts) <= 1_024
