"""The memory layer: what it gives, what it forgets first."""

import dataclasses

from archscore_server.engine import EvaluationConfig
from archscore_server.store._memory import Memory
from support.stores import CELLS, CONTEXT, PROXIES, ok, scores_of

OTHER = dataclasses.replace(CONTEXT, config=EvaluationConfig(seed=1))


def held(memory, context, cells, now=0):
    return [bool(scores) for scores in memory.get(context, cells, PROXIES, now, 0)[0]]


def test_the_least_recently_used_goes_first():
    memory = Memory(3)
    for second, index in enumerate([0, 1, 2]):
        memory.put(CONTEXT, CELLS[index], scores_of(index), second)
    assert held(memory, CONTEXT, [CELLS[0]], now=3) == [True]
    memory.put(CONTEXT, CELLS[3], scores_of(3), 4)
    assert len(memory) == 3
    assert held(memory, CONTEXT, CELLS[:4], now=5) == [True, False, True, True]


def test_the_least_recently_used_context_goes_first():
    memory = Memory(4)
    for index in range(2):
        memory.put(OTHER, CELLS[index], scores_of(index), index)
        memory.put(CONTEXT, CELLS[index], scores_of(index), index)
    assert held(memory, OTHER, [CELLS[0]]) == [True]
    memory.put(OTHER, CELLS[2], scores_of(2), 9)
    assert held(memory, OTHER, CELLS[:3]) == [True] * 3
    assert held(memory, CONTEXT, CELLS[:2]) == [False, True]


def test_many_contexts_are_bounded_too():
    memory = Memory(10)
    for seed in range(100):
        memory.put(dataclasses.replace(CONTEXT, config=EvaluationConfig(seed=seed)), CELLS[0], scores_of(0), seed)
    assert len(memory) == 10
    assert len(memory._contexts) == 10


def test_what_was_put_is_newer_than_what_was_read():
    memory = Memory(10)
    memory.put(CONTEXT, CELLS[0], {"tcet": ok(2.0)}, 0)
    memory.fill(CONTEXT, {CELLS[0]: {"tcet": ok(1.0), "snip": ok(1.0)}, CELLS[1]: {"tcet": ok(3.0)}}, 0)
    found, _ = memory.get(CONTEXT, CELLS[:2], ["tcet", "snip"], 0, 0)
    assert found == [{"tcet": ok(2.0), "snip": ok(1.0)}, {"tcet": ok(3.0)}]


def test_answers_are_the_callers_own():
    memory = Memory(10)
    memory.put(CONTEXT, CELLS[0], scores_of(0), 0)
    [found], _ = memory.get(CONTEXT, [CELLS[0]], PROXIES, 0, 0)
    found.clear()
    assert held(memory, CONTEXT, [CELLS[0]]) == [True]


def test_a_use_is_noted_when_the_last_note_is_stale():
    memory = Memory(10)
    memory.put(CONTEXT, CELLS[0], scores_of(0), 100)
    noted = [memory.get(CONTEXT, [CELLS[0]], PROXIES, now, now - 10)[1] for now in (105, 110, 111, 112, 121, 122)]
    assert noted == [[], [], [CELLS[0]], [], [], [CELLS[0]]]
