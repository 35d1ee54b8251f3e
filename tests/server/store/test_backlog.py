"""What waits to be written."""

from archscore_server.store._backlog import Backlog, size_of
from support.stores import CELLS, CONTEXT, ok, scores_of


def test_what_is_taken_no_longer_waits():
    backlog = Backlog(100)
    for index in range(4):
        assert backlog.add(CONTEXT, CELLS[index], scores_of(index))
    batch = backlog.take(5)
    assert size_of(batch) == 6
    assert len(backlog) == 6
    assert size_of(backlog.take(100)) == 6
    assert backlog.take(100) == {}


def test_a_score_that_is_put_again_waits_once():
    backlog = Backlog(100)
    backlog.add(CONTEXT, CELLS[0], {"tcet": ok(1.0)})
    backlog.add(CONTEXT, CELLS[0], {"tcet": ok(2.0), "snip": ok(3.0)})
    assert len(backlog) == 2
    assert backlog.get(CONTEXT, CELLS[0]) == {"tcet": ok(2.0), "snip": ok(3.0)}
    assert backlog.get(CONTEXT, CELLS[1]) == {}


def test_what_comes_back_is_older_than_what_came_since():
    backlog = Backlog(100)
    backlog.add(CONTEXT, CELLS[0], {"tcet": ok(1.0), "snip": ok(1.0)})
    batch = backlog.take(100)
    backlog.add(CONTEXT, CELLS[0], {"tcet": ok(2.0)})
    assert backlog.restore(batch) == 0
    assert backlog.get(CONTEXT, CELLS[0]) == {"tcet": ok(2.0), "snip": ok(1.0)}


def test_there_is_a_limit():
    backlog = Backlog(7)
    assert backlog.add(CONTEXT, CELLS[0], scores_of(0))
    batch = backlog.take(100)
    assert backlog.add(CONTEXT, CELLS[1], scores_of(1))
    assert backlog.add(CONTEXT, CELLS[2], scores_of(2))
    assert not backlog.add(CONTEXT, CELLS[3], scores_of(3))
    assert backlog.restore(batch) == 3
    assert backlog.clear() == 6
    assert len(backlog) == 0
