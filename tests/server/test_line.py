from __future__ import annotations

import random

import pytest

from archscore.spaces import nasbench201
from archscore_server._line import Line
from archscore_server._priority import Priority
from archscore_server._rates import Pace
from archscore_server._turns import Turns
from archscore_server._work import Group, Work
from archscore_server.engine import EvaluationConfig
from puppets import cell


def works(turns: Turns, number: int) -> list[Work]:
    group = Group((nasbench201.Cell, ("tcet",), EvaluationConfig()), Line(turns), Pace())
    return [Work(cell(index), group, Priority.DEFAULT, 0.0) for index in range(number)]


def test_an_empty_line_has_no_priorities() -> None:
    turns = Turns()
    line = Line(turns)
    [work] = works(turns, 1)
    turns.enter("one")
    line.add(work, "one", Priority.BULK)
    assert line.priorities == [Priority.BULK]
    counted = [("one", Priority.BULK), ("one", Priority.DEFAULT), ("two", Priority.BULK)]
    assert [line.count(*whose) for whose in counted] == [1, 0, 0]
    line.remove(work, "one", Priority.BULK)
    assert line.priorities == []


def test_equals_are_first_come_first_served() -> None:
    turns = Turns()
    line = Line(turns)
    for name, work in zip("cab", works(turns, 3), strict=True):
        turns.enter(name)
        line.add(work, name, Priority.DEFAULT)
    order = []
    while line.priorities:
        name, work = line.first(Priority.DEFAULT)
        order.append(name)
        line.remove(work, name, Priority.DEFAULT)
    assert order == ["c", "a", "b"]


@pytest.mark.parametrize("seed", range(5))
def test_the_first_is_the_one_with_the_least_time_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    turns = Turns()
    line = Line(turns)
    names = [f"client {number}" for number in range(20)]
    waiting: dict[str, list[Work]] = {name: [] for name in names}
    turns.enter("somebody")  # who is always there, so that debts count
    idle = works(turns, 400)
    for _ in range(3_000):
        name = chance.choice(names)
        match chance.choice(["add", "remove", "charge", "repay"]):
            case "add" if idle:
                turns.enter(name)
                waiting[name].append(idle.pop())
                line.add(waiting[name][-1], name, Priority.DEFAULT)
            case "remove" if waiting[name]:
                work = waiting[name].pop(chance.randrange(len(waiting[name])))
                line.remove(work, name, Priority.DEFAULT)
                turns.leave(name)
                idle.append(work)
            case "charge" if waiting[name]:
                turns.charge(name, chance.random())
            case "repay" if waiting[name]:
                turns.charge(name, -chance.random() / 2)
                line.repaid(name)
        present = [name for name in names if waiting[name]]
        assert line.priorities == [Priority.DEFAULT] * bool(present)
        if present:
            name, work = line.first(Priority.DEFAULT)
            assert turns.time(name) == min(turns.time(other) for other in present)
            assert work is waiting[name][0]
    level = line._levels[Priority.DEFAULT]
    assert len(level._heap) <= 2 * len(names) + 64
