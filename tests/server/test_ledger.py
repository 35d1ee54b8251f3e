"""How waits end, wherever their work is, and who hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from archscore_server._ledger import Ledger
from archscore_server._work import Place, Work
from archscore_server.scheduler import DeadlineExceededError, Priority, StoppingError
from puppets import Clock, cell, evaluation_of, settle
from support.scheduling import Desk, Log, check_timers, items, outcomes

UNFINISHED = [Place.LINE, Place.RETRY, Place.RUNNING]


@pytest_asyncio.fixture
async def desk(clock: Clock, log: Log) -> AsyncIterator[Desk]:
    desk = Desk(clock, log)
    yield desk
    desk.close()
    check_timers()


def bring(desk: Desk, clock: Clock, place: Place) -> list[Work]:
    """Brings what stands in line to another place."""
    works = desk.queue.all()
    if place is not Place.LINE:
        taken = desk.queue.take(clock())
        assert taken
        assert set(taken[0]) == set(works)
    if place is Place.RETRY:
        desk.queue.settle_up(works, 0.0)
        desk.queue.retry(works)
    return works


# Outcomes


@pytest.mark.parametrize("place", UNFINISHED)
async def test_all_who_wait_are_told_wherever_the_work_is(desk: Desk, clock: Clock, place: Place) -> None:
    waiters = [*desk.submit(items(1, 1), client="a"), *desk.submit(items(1), client="b", deadline=clock() + 5)]
    [work] = bring(desk, clock, place)
    desk.ledger.settle(work, evaluation_of(cell(1)))
    assert [waiter.outcome for waiter in waiters] == [evaluation_of(cell(1))] * 3
    assert (len(desk.queue), desk.queue.in_flight) == (0, 0)
    await clock.advance(5)
    assert outcomes(waiters) == [True] * 3


async def test_the_first_outcome_stays(desk: Desk, clock: Clock) -> None:
    [waiter] = desk.submit(items(1))
    [work] = bring(desk, clock, Place.RUNNING)
    desk.ledger.settle(work, StoppingError())
    desk.ledger.settle(work, evaluation_of(cell(1)))
    assert outcomes([waiter]) == [StoppingError]


async def test_who_has_left_is_told_nothing(desk: Desk, clock: Clock) -> None:
    leaves, stays = desk.submit(items(1, 1))
    [work] = bring(desk, clock, Place.RUNNING)
    leaves.leave()
    desk.ledger.settle(work, evaluation_of(cell(1)))
    assert outcomes([leaves, stays]) == [False, True]


async def test_work_that_nobody_waits_for_any_more_ends_all_the_same(desk: Desk, clock: Clock) -> None:
    [waiter] = desk.submit(items(1))
    [work] = bring(desk, clock, Place.RUNNING)
    waiter.leave()
    desk.ledger.settle(work, evaluation_of(cell(1)))
    assert desk.queue.in_flight == 0


async def test_a_fault_of_the_queue_keeps_nobody_from_an_answer(
    desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Work) -> None:
        raise ZeroDivisionError

    waiters = desk.submit(items(1, 1))
    [work] = bring(desk, clock, Place.RUNNING)
    monkeypatch.setattr(desk.queue, "remove", fail)
    with pytest.raises(ZeroDivisionError):
        desk.ledger.settle(work, evaluation_of(cell(1)))
    assert outcomes(waiters) == [True, True]


# Leaving


@pytest.mark.parametrize(
    ("place", "left", "dropped"), [(Place.LINE, 1, [(1,)]), (Place.RETRY, 1, [(1,)]), (Place.RUNNING, 2, [])]
)
async def test_work_that_is_left_is_dropped_unless_it_runs(
    desk: Desk, clock: Clock, log: Log, place: Place, left: int, dropped: list[object]
) -> None:
    leaves, stays = desk.submit(items(1, 2))
    bring(desk, clock, place)
    leaves.leave()
    leaves.leave()
    assert desk.queue.in_flight == left
    assert log.counts("cancelled") == dropped
    assert outcomes([leaves, stays]) == [False, False]


async def test_a_queued_item_goes_with_its_last_waiter(desk: Desk, log: Log) -> None:
    [first] = desk.submit(items(1))
    [second, _] = desk.submit(items(1, 2))
    first.leave()
    first.leave()
    assert len(desk.queue) == 2
    second.leave()
    assert len(desk.queue) == 1
    assert log.counts("cancelled") == [(1,)]


@pytest.mark.parametrize(("seconds", "reason"), [(9.8, "cancelled"), (9.95, "expired")])
async def test_who_leaves_at_the_deadline_leaves_because_of_it(
    desk: Desk, clock: Clock, log: Log, seconds: float, reason: str
) -> None:
    [waiter] = desk.submit(items(1), deadline=clock() + 10)
    await clock.advance(seconds)
    waiter.leave()
    assert [event for event, *_ in log.events] == [reason]


@pytest.mark.parametrize("place", UNFINISHED)
async def test_who_leaves_work_to_others_leaves_paying_for_it_to_them(desk: Desk, clock: Clock, place: Place) -> None:
    [leaves] = desk.submit(items(1), client="a")
    desk.submit(items(1), client="b")
    [work] = bring(desk, clock, place)
    leaves.leave()
    assert work.claims.keys() == {"b"}
    if place is not Place.RUNNING:
        desk.queue.take(clock())
        assert work.payer == "b"


async def test_what_everybody_left_is_taken_by_nobody(desk: Desk, clock: Clock) -> None:
    for waiter in [*desk.submit(items(1, 2), client="a"), *desk.submit(items(2), client="b")]:
        waiter.leave()
    assert desk.queue.take(clock()) is None


# Deadlines


@pytest.mark.parametrize(
    ("place", "left", "dropped"), [(Place.LINE, 1, [(2,)]), (Place.RETRY, 1, [(2,)]), (Place.RUNNING, 3, [])]
)
async def test_works_whose_deadline_passes_are_dropped_unless_they_run(
    desk: Desk, clock: Clock, log: Log, place: Place, left: int, dropped: list[object]
) -> None:
    late = desk.submit(items(1, 2, 2), deadline=clock() + 5)
    [patient] = desk.submit(items(3))
    bring(desk, clock, place)
    await clock.advance(5)
    assert outcomes([*late, patient]) == [*[DeadlineExceededError] * 3, False]
    assert desk.queue.in_flight == left
    assert log.counts("expired") == dropped


async def test_an_item_lives_until_the_latest_deadline_of_its_waiters(desk: Desk, clock: Clock, log: Log) -> None:
    [short] = desk.submit(items(1), deadline=clock() + 5)
    [long] = desk.submit(items(1), deadline=clock() + 10)
    await clock.advance(5)
    assert outcomes([short, long]) == [DeadlineExceededError, False]
    assert (len(desk.queue), log.counts("expired")) == (1, [])
    await clock.advance(5)
    assert outcomes([short, long]) == [DeadlineExceededError] * 2
    assert (len(desk.queue), log.counts("expired")) == (0, [(1,)])


async def test_nobody_expires_if_nobody_is_late(desk: Desk, log: Log) -> None:
    [waiter] = desk.submit(items(1))
    desk.ledger.expire([])
    assert not waiter.done
    assert log.counts("expired") == []


# What others hear


async def test_depths_are_told_by_priority_with_the_room_that_is_promised(desk: Desk, clock: Clock, log: Log) -> None:
    desk.submit(items(1, 2), priority=Priority.BULK)
    desk.submit(items(3), priority=Priority.INTERACTIVE)
    desk.ledger.promised[Priority.BULK] += 5
    desk.ledger.report()
    assert log.queued == {Priority.BULK: 7, Priority.DEFAULT: 0, Priority.INTERACTIVE: 1}
    bring(desk, clock, Place.RUNNING)
    desk.ledger.changed()
    assert log.queued == {Priority.BULK: 5, Priority.DEFAULT: 0, Priority.INTERACTIVE: 0}


async def test_only_a_change_of_what_waits_or_runs_may_let_a_batch_start(desk: Desk) -> None:
    assert not desk.ledger.work_may_be_ready.is_set()
    desk.ledger.report()
    assert not desk.ledger.work_may_be_ready.is_set()
    desk.ledger.changed()
    assert desk.ledger.work_may_be_ready.is_set()


async def test_depths_follow_who_leaves_and_who_is_late(desk: Desk, clock: Clock, log: Log) -> None:
    leaves, _ = desk.submit(items(1, 2))
    desk.submit(items(3, 4), deadline=clock() + 5)
    leaves.leave()
    await clock.advance(5)
    assert log.depths == [2, 4, 3, 1]


# The end


async def waits(ledger: Ledger) -> asyncio.Task[None]:
    empty = asyncio.create_task(ledger.empty())
    await settle()
    return empty


async def test_an_empty_ledger_is_empty_at_once(desk: Desk) -> None:
    assert (await waits(desk.ledger)).done()


@pytest.mark.parametrize("place", UNFINISHED)
async def test_it_is_empty_once_the_last_work_has_ended(desk: Desk, clock: Clock, place: Place) -> None:
    desk.submit(items(1, 2))
    works = bring(desk, clock, place)
    empty, other = await waits(desk.ledger), await waits(desk.ledger)
    for work in works:
        assert not empty.done()
        desk.ledger.settle(work, evaluation_of(work.architecture))
        desk.ledger.changed()
        await settle()
    assert empty.done()
    assert other.done()


async def test_it_is_empty_once_everybody_has_left_or_is_late(desk: Desk, clock: Clock) -> None:
    [leaves] = desk.submit(items(1))
    desk.submit(items(2), deadline=clock() + 5)
    empty = await waits(desk.ledger)
    leaves.leave()
    await settle()
    assert not empty.done()
    await clock.advance(5)
    assert empty.done()


async def test_room_that_is_promised_keeps_it_from_being_empty(desk: Desk) -> None:
    desk.ledger.promised[Priority.BULK] = 1
    empty = await waits(desk.ledger)
    desk.ledger.report()
    await settle()
    assert not empty.done()
    desk.ledger.promised[Priority.BULK] = 0
    desk.ledger.report()
    await settle()
    assert empty.done()


async def test_who_comes_in_the_moment_that_it_is_empty_is_waited_for(desk: Desk) -> None:
    [first] = desk.submit(items(1))
    empty = await waits(desk.ledger)
    first.leave()
    [second] = desk.submit(items(2))
    await settle()
    assert not empty.done()
    second.leave()
    await settle()
    assert empty.done()
