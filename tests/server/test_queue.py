"""Whatever fails while a batch is taken, every evaluation is taken in the end, once."""

from __future__ import annotations

import pytest

from archscore_server._line import Line
from archscore_server._priority import Priority
from archscore_server._queue import Queue
from archscore_server._turns import Turns
from archscore_server._work import Work
from puppets import cell
from support.scheduling import items

CLIENTS = ["a", "b", "a", "b"]


def break_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    """Has one call of a method raise: the first is number 0."""
    original = getattr(owner, name)
    calls = 0

    def count(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise ZeroDivisionError
        return original(*arguments)

    monkeypatch.setattr(owner, name, count)


def filled() -> tuple[Queue, list[Work]]:
    """A queue whose next batch is all that is in it."""
    queue = Queue(batch_delay=0)
    queue.max_batch = len(CLIENTS)
    return queue, [
        queue.add(cell(index), queue.group(*items(index)), client, Priority.DEFAULT, 0.0)
        for index, client in enumerate(CLIENTS)
    ]


def take_all(queue: Queue) -> list[Work]:
    """Runs all that there is, to its end."""
    taken = []
    while batch := queue.take(0.0):
        works, _ = batch
        taken += works
        for work in works:
            queue.remove(work)
        queue.settle_up(works, 1.0)
    return taken


def check_empty(queue: Queue) -> None:
    assert (len(queue), queue.in_flight, queue.all()) == (0, 0, [])
    assert not len(queue._turns), "nobody is taken to have something in flight"


@pytest.mark.parametrize("call", range(len(CLIENTS)))
@pytest.mark.parametrize(("owner", "name"), [(Line, "first"), (Turns, "charge")])
def test_what_was_taken_before_a_fault_is_taken_again(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int
) -> None:
    queue, works = filled()
    break_at(monkeypatch, owner, name, call)
    with pytest.raises(ZeroDivisionError):
        queue.take(0.0)
    assert (len(queue), queue.in_flight) == (4, 4)
    assert sorted(take_all(queue), key=works.index) == works
    check_empty(queue)


@pytest.mark.parametrize("call", range(len(CLIENTS)))
def test_what_is_run_again_is_not_lost_to_a_fault_either(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    queue, works = filled()
    assert queue.take(0.0) == (works, "full")
    queue.settle_up(works, 1.0)
    queue.retry(works)
    break_at(monkeypatch, Turns, "charge", call)
    with pytest.raises(ZeroDivisionError):
        queue.take(0.0)
    assert (len(queue), queue.in_flight) == (4, 4)
    assert sorted(take_all(queue), key=works.index) == works
    check_empty(queue)


def test_what_was_taken_before_a_fault_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, works = filled()
    break_at(monkeypatch, Line, "first", 2)
    with pytest.raises(ZeroDivisionError):
        queue.take(0.0)
    for work in works:
        queue.remove(work)
    assert queue.take(0.0) is None
    check_empty(queue)
