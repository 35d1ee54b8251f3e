"""What is better: one proxy, or several by their ranks."""

from __future__ import annotations

import math
import random

import pytest

from archscore.search import Objective
from archscore.search._objective import Leader, Standings


def test_one_proxy_is_its_value(record):
    records = [record(0, a=3.0), record(1, a=-1.0), record(2, a=None), record(3)]
    assert Objective({"a": True}).fitness(records) == [3.0, -1.0, -math.inf, -math.inf]
    assert Objective({"a": False}).fitness(records) == [-3.0, 1.0, -math.inf, -math.inf]


def test_several_proxies_are_their_rank_sum(record):
    values = [(1.0, 50.0), (2.0, 40.0), (3.0, 30.0), (3.0, 45.0)]
    records = [record(index, a=a, kappa=kappa) for index, (a, kappa) in enumerate(values)]
    # a: ranks 1, 2, 3.5, 3.5; kappa, where less is better: 1, 3, 4, 2; half a rank less, of 4, and the mean of both
    assert Objective({"a": True, "kappa": False}).fitness(records) == [
        (rank_a + rank_kappa - 1) / 8 for rank_a, rank_kappa in ((1, 1), (2, 3), (3.5, 4), (3.5, 2))
    ]


def test_what_lacks_one_of_several_scores_has_no_rank_and_takes_none(record):
    whole = [record(0, a=1.0, b=1.0), record(1, a=2.0, b=2.0)]
    objective = Objective({"a": True, "b": True})
    assert objective.fitness([*whole, record(2, a=9.0, b=None)]) == [*objective.fitness(whole), -math.inf]


@pytest.mark.parametrize("higher", [{"a": True}, {"a": False, "b": True}, {"a": True, "b": True, "c": False}])
def test_the_leader_is_the_best_of_all_at_any_time(record, higher):
    rng = random.Random(0)
    objective = Objective(higher)
    leader, standings, records = Leader(objective), Standings(objective), []
    for index in range(120):
        # Few values, so that there are ties; some are missing.
        scores = {name: rng.choice([None, *map(float, range(6))]) for name in "abc"}
        records.append(record(index, **scores))
        leader.add(records[-1])
        standings.add(records[-1])
        fitness = objective.fitness(records)
        assert [standings.fitness(one) for one in records] == fitness
        if max(fitness) == -math.inf:
            assert leader.best is None
        else:
            assert fitness[leader.best.index] == max(fitness)


def test_of_equals_the_earliest_leads(record):
    leader = Leader(Objective({"a": True}))
    for index in range(3):
        leader.add(record(index, a=1.0))
    assert leader.best.index == 0
