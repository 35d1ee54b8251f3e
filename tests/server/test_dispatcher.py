"""Batches out of the queue, results to who waits, and what lost workers, failed batches and faults leave behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from archscore_server._dispatcher import Dispatcher
from archscore_server._failures import Failures
from archscore_server._rates import Pace
from archscore_server.engine import ArchitectureTooLargeError, EvaluationConfig
from archscore_server.pool import BatchReport
from archscore_server.scheduler import ArchitectureFailedError, DeadlineExceededError, Item, Priority, Waiter
from puppets import Clock, PuppetPool, cell, evaluation_of, settle
from support.scheduling import Desk, Log, check_timers, items, outcomes

OTHER = EvaluationConfig(batch_size=8)


class Dispatching(Desk):
    """A desk whose queue is served by a dispatcher."""

    def __init__(self, pool: PuppetPool, clock: Clock, log: Log, batch_delay: float) -> None:
        super().__init__(clock, log, batch_delay=batch_delay, max_batch=pool.max_batch)
        self.queue.slots = pool.slots
        self.failures = Failures()
        self.dispatcher = Dispatcher(pool, self.queue, self.ledger, self.failures, log, clock)

    def pace(self, item: Item) -> Pace:
        """What was measured of items like this one."""
        return self.queue.group(item).pace


Dispatch = Callable[..., Dispatching]


@pytest_asyncio.fixture
async def dispatch(clock: Clock, log: Log) -> AsyncIterator[Dispatch]:
    """Starts dispatchers; stops them in the end, and makes sure that nothing is left of what they did."""
    started = []

    def start(pool: PuppetPool, *, batch_delay: float = 0) -> Dispatching:
        started.append(Dispatching(pool, clock, log, batch_delay))
        started[-1].dispatcher.start()
        return started[-1]

    yield start
    for one in started:
        one.close()
        await one.dispatcher.stop()
    check_timers()


# Slots


async def test_as_many_batches_run_at_once_as_there_are_slots(dispatch: Dispatch) -> None:
    pool = PuppetPool(slots=3, max_batch=1)
    desk = dispatch(pool)
    waiters = desk.submit(items(*range(5)))
    await settle()
    assert [run.indices for run in pool.running] == [[0], [1], [2]]
    await pool.runs[1].finish()
    assert [run.indices for run in pool.running] == [[0], [2], [3]]
    while pool.running:
        await pool.running[0].finish()
    assert [waiter.outcome for waiter in waiters] == [evaluation_of(cell(index)) for index in range(5)]


async def test_what_came_before_the_start_is_run(dispatch: Dispatch, clock: Clock, log: Log) -> None:
    pool = PuppetPool()
    desk = Dispatching(pool, clock, log, batch_delay=0)
    [waiter] = desk.submit(items(1))
    await settle()
    assert not pool.runs
    desk.dispatcher.start()
    await settle()
    await pool.last.finish()
    assert waiter.outcome == evaluation_of(cell(1))
    await desk.dispatcher.stop()


async def test_what_does_not_fit_fails_alone_and_is_not_run_again(dispatch: Dispatch) -> None:
    pool = PuppetPool()
    waiters = dispatch(pool).submit(items(0, 1))
    await settle()
    error = ArchitectureTooLargeError(10, 5)
    pool.last.on_results([(0, error), (1, evaluation_of(cell(1)))])
    await pool.last.end()
    assert [waiter.outcome for waiter in waiters] == [error, evaluation_of(cell(1))]
    assert len(pool.runs) == 1


async def test_a_stack_that_reports_nothing_changes_nothing(dispatch: Dispatch) -> None:
    pool = PuppetPool()
    waiters = dispatch(pool).submit(items(0, 1))
    await settle()
    await pool.last.report()
    assert outcomes(waiters) == [False, False]
    await pool.last.finish()
    assert outcomes(waiters) == [True, True]


async def test_nothing_is_in_flight_after_the_last_result_even_if_its_batch_has_not_ended(dispatch: Dispatch) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    desk.submit(items(0, 1))
    empty = asyncio.create_task(desk.ledger.empty())
    await settle()
    await pool.last.report(1)
    assert not empty.done()
    await pool.last.report(0)
    assert empty.done()


async def test_what_a_worker_says_of_its_batch_is_told(dispatch: Dispatch, clock: Clock, log: Log) -> None:
    pool = PuppetPool()
    dispatch(pool).submit(items(1))
    await settle()
    await clock.advance(2)
    await pool.last.report(0)
    await pool.last.end(1.5)
    assert log.counts("batch_started") == [(1, "waited")]
    assert log.counts("batch_ended") == [(1, 2.0, BatchReport(1.5))]


async def test_the_wait_for_the_first_batch_is_told(dispatch: Dispatch, clock: Clock, log: Log) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    desk.submit(items(0))
    await settle()
    log.events.clear()
    desk.submit(items(1), priority=Priority.BULK)
    await clock.advance(2)
    desk.submit(items(2))
    await clock.advance(1)
    await pool.last.finish()
    assert sorted(log.counts("waited")) == [(Priority.BULK, 3.0), (Priority.DEFAULT, 1.0)]
    await pool.last.lose()
    assert len(log.counts("waited")) == 2


# Holds


async def test_a_free_slot_waits_for_more_but_not_longer_than_the_delay(dispatch: Dispatch, clock: Clock) -> None:
    pool = PuppetPool()
    desk = dispatch(pool, batch_delay=1.0)
    desk.submit(items(1))
    await clock.advance(0.9)
    desk.submit(items(2))
    await settle()
    assert not pool.runs
    await clock.advance(0.1)
    assert pool.last.indices == [1, 2]


async def test_the_hold_begins_anew_when_everyone_has_left(dispatch: Dispatch, clock: Clock) -> None:
    pool = PuppetPool()
    desk = dispatch(pool, batch_delay=1.0)
    [waiter] = desk.submit(items(1))
    await clock.advance(0.9)
    waiter.leave()
    desk.submit(items(2))
    await clock.advance(0.9)
    assert not pool.runs
    await clock.advance(0.1)
    assert pool.last.indices == [2]


async def test_each_hold_ends_in_its_time(dispatch: Dispatch, clock: Clock) -> None:
    pool = PuppetPool(slots=2)
    desk = dispatch(pool, batch_delay=1.0)
    desk.submit(items(1))
    await clock.advance(0.5)
    desk.submit(items(2, config=OTHER))
    await clock.advance(0.5)
    assert [run.indices for run in pool.runs] == [[1]]
    await clock.advance(0.5)
    assert [run.indices for run in pool.runs] == [[1], [2]]


async def test_what_was_held_while_all_slots_were_busy_goes_with_the_first_that_is_free(
    dispatch: Dispatch, clock: Clock
) -> None:
    pool = PuppetPool(max_batch=2)
    desk = dispatch(pool, batch_delay=1.0)
    desk.submit(items(1, 2))
    await settle()
    desk.submit(items(3, config=OTHER))
    await clock.advance(5.0)
    assert [run.indices for run in pool.runs] == [[1, 2]]
    await pool.last.finish()
    assert pool.last.indices == [3]


# Deadlines


async def test_a_deadline_that_the_timer_missed_counts_when_a_batch_starts(
    dispatch: Dispatch, clock: Clock, log: Log
) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    waiters = desk.submit(items(1, 2), deadline=clock.now + 5)
    [patient] = desk.submit(items(2, config=OTHER))
    clock.now += 5
    await settle()
    assert outcomes(waiters) == [DeadlineExceededError] * 2
    assert [run.batch.config for run in pool.runs] == [OTHER]
    assert log.counts("expired") == [(2,)]
    await pool.last.finish()
    assert patient.done
    assert not len(desk.queue._turns), "nobody is taken to have something in flight"


@pytest.mark.parametrize(("seconds", "late"), [(4, True), (5, True), (5.1, False)])
async def test_what_has_become_hopeless_in_line_is_dropped(
    dispatch: Dispatch, clock: Clock, log: Log, seconds: float, late: bool
) -> None:
    """It took ten seconds when it was measured, and may take half of that at best."""
    pool = PuppetPool()
    desk = dispatch(pool)
    desk.submit(items(0))
    await settle()
    await clock.advance(10)
    await pool.last.finish()
    [hurried] = desk.submit(items(1), deadline=clock() + seconds)
    [patient] = desk.submit(items(2))
    await settle()
    assert outcomes([hurried]) == [DeadlineExceededError if late else False]
    assert pool.last.indices == ([2] if late else [1, 2])
    assert log.counts("expired") == [(1,)] * late
    await pool.last.finish()
    assert patient.outcome == evaluation_of(cell(2))


async def test_of_what_is_late_altogether_nothing_is_left(dispatch: Dispatch, clock: Clock) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    desk.submit(items(0))
    await settle()
    desk.submit(items(1, 2), deadline=clock() + 14)
    empty = asyncio.create_task(desk.ledger.empty())
    await clock.advance(10)
    await pool.last.finish()
    assert empty.done()
    assert len(pool.runs) == 1


async def test_what_somebody_can_wait_for_is_run_for_them(dispatch: Dispatch, clock: Clock, log: Log) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    [late] = desk.submit(items(1), deadline=clock.now + 5)
    [patient] = desk.submit(items(1))
    clock.now += 5
    await settle()
    assert outcomes([late, patient]) == [DeadlineExceededError, False]
    assert log.counts("expired") == []
    await pool.last.finish()
    assert patient.outcome == evaluation_of(cell(1))


# Lost workers and failed batches


async def test_what_a_lost_worker_had_not_reported_is_run_again_in_halves(dispatch: Dispatch, log: Log) -> None:
    pool = PuppetPool(max_batch=5)
    desk = dispatch(pool)
    waiters = desk.submit(items(0, 1, 2, 3, 4))
    fresh = desk.submit(items(5))
    await settle()
    await pool.last.report(1)
    await pool.last.lose()
    for expected in ([0, 2], [5], [3, 4]):
        assert pool.last.indices == expected
        await pool.last.finish()
    assert [waiter.outcome for waiter in waiters + fresh] == [evaluation_of(cell(index)) for index in range(6)]
    assert log.counts("retried") == [(4, "worker_lost")]
    assert log.counts("batch_started") == [(5, "full"), (2, "retry"), (1, "waited"), (2, "retry")]
    assert log.counts("batch_ended")[0] == (5, 0.0, None)


@pytest.mark.parametrize("slots", [1, 3])
async def test_only_the_architecture_that_kills_its_workers_fails(dispatch: Dispatch, slots: int) -> None:
    pool = PuppetPool(slots=slots, max_batch=8)
    waiters = dispatch(pool).submit(items(*range(16)))
    await settle()
    lone_deaths = 0
    while pool.running:
        run = pool.running[0]
        if 11 in run.indices:
            lone_deaths += run.indices == [11]
            await run.lose()
        else:
            await run.finish()
    assert lone_deaths == 3
    assert outcomes(waiters) == [True] * 11 + [ArchitectureFailedError] + [True] * 4
    with pytest.raises(ArchitectureFailedError, match="3 worker processes died"):
        await waiters[11].result()


async def test_deaths_in_company_do_not_count(dispatch: Dispatch) -> None:
    pool = PuppetPool(max_batch=8)
    waiters = dispatch(pool).submit(items(*range(8)))
    await settle()
    while len(pool.last.indices) > 1:
        await pool.last.lose()
    for _ in range(2):
        await pool.last.lose()
    while pool.running:
        await pool.last.finish()
    assert outcomes(waiters) == [True] * 8


async def test_a_worker_that_dies_after_its_last_result_costs_nothing(dispatch: Dispatch, log: Log) -> None:
    pool = PuppetPool()
    waiters = dispatch(pool).submit(items(0, 1))
    await settle()
    await pool.last.report(0, 1)
    await pool.last.lose()
    assert [waiter.outcome for waiter in waiters] == [evaluation_of(cell(0)), evaluation_of(cell(1))]
    assert not pool.running
    assert log.counts("retried") == []


async def test_only_the_architecture_that_raises_fails_and_without_the_engines_words(
    dispatch: Dispatch, log: Log
) -> None:
    pool = PuppetPool(max_batch=4)
    waiters = dispatch(pool).submit(items(0, 1, 2, 3))
    await settle()
    runs = []
    while pool.running:
        runs.append(pool.last.indices)
        await (pool.last.fail() if 2 in pool.last.indices else pool.last.finish())
    assert runs == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
    assert outcomes(waiters) == [True, True, ArchitectureFailedError, True]
    assert "secret" not in str(waiters[2].outcome)
    assert log.counts("retried") == [(4, "batch_failed"), (2, "batch_failed")]


async def test_every_waiter_of_a_failed_architecture_hears_of_it(dispatch: Dispatch) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    waiters = desk.submit(items(1, 1))
    await settle()
    await pool.last.fail()
    assert outcomes(waiters) == [ArchitectureFailedError] * 2
    [again] = desk.submit(items(1))
    await settle()
    await pool.last.finish()
    assert again.outcome == evaluation_of(cell(1))


@pytest.mark.parametrize(("how", "times", "remembered"), [("lose", 3, True), ("fail", 1, False)])
async def test_what_takes_its_workers_with_it_is_remembered(
    dispatch: Dispatch, clock: Clock, how: str, times: int, remembered: bool
) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    [waiter] = desk.submit(items(1))
    await settle()
    for _ in range(times):
        assert not waiter.done
        await getattr(pool.last, how)()
    [item] = items(1)
    assert desk.failures.get(item, clock()) == (str(waiter.outcome) if remembered else None)


async def test_what_a_batch_ends_without_is_treated_as_failed(dispatch: Dispatch) -> None:
    pool = PuppetPool()
    waiters = dispatch(pool).submit(items(1, 2))
    await settle()
    await pool.last.report(0)
    await pool.last.end()
    assert pool.last.indices == [2]
    await pool.last.end()
    assert outcomes(waiters) == [True, ArchitectureFailedError]


async def test_a_pool_that_raises_anything_else_is_treated_as_failed(dispatch: Dispatch) -> None:
    pool = PuppetPool()
    waiters = dispatch(pool).submit(items(1))
    await settle()
    pool.last.ending.set_exception(OSError("no more files"))
    await settle()
    assert outcomes(waiters) == [ArchitectureFailedError]


async def test_a_pool_that_reports_twice_does_not_get_an_answer_lost(dispatch: Dispatch) -> None:
    pool = PuppetPool()
    waiters = dispatch(pool).submit(items(0, 1))
    await settle()
    with pytest.raises(KeyError):
        await pool.last.report(0, 0, 1)
    await pool.last.fail()
    assert pool.last.indices == [1]
    await pool.last.finish()
    assert [waiter.outcome for waiter in waiters] == [evaluation_of(cell(0)), evaluation_of(cell(1))]


async def test_what_nobody_waits_for_is_not_run_again(dispatch: Dispatch, log: Log) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    first, second = desk.submit(items(1, 2))
    await settle()
    first.leave()
    await pool.last.lose()
    assert pool.last.indices == [2]
    second.leave()
    await pool.last.lose()
    assert not pool.running
    assert desk.queue.in_flight == 0
    assert log.counts("cancelled") == [(1,), (1,)]


async def test_work_that_waits_to_run_again_can_be_left_joined_and_expire(dispatch: Dispatch, clock: Clock) -> None:
    pool = PuppetPool(max_batch=6)
    desk = dispatch(pool)
    waiters = desk.submit(items(*range(6)))
    hurried = desk.submit(items(5), deadline=clock.now + 5)
    await settle()
    await pool.last.lose()
    assert len(desk.queue) == 3
    waiters[3].leave()
    waiters[5].leave()
    [joined] = desk.submit(items(4), priority=Priority.INTERACTIVE)
    await clock.advance(5)
    assert outcomes(hurried) == [DeadlineExceededError]
    assert len(desk.queue) == 1
    await pool.last.finish()
    assert pool.last.indices == [4]
    await pool.last.finish()
    assert joined.done


# What is learnt


async def test_a_batch_tells_how_long_its_kind_takes(dispatch: Dispatch, clock: Clock) -> None:
    pool = PuppetPool(max_batch=4)
    desk = dispatch(pool)
    desk.submit(items(0, 1, 2, 3))
    await settle()
    await clock.advance(8)
    await pool.last.finish()
    assert desk.pace(items(9)[0]).expected == 2
    assert desk.pace(items(9, config=OTHER)[0]).expected == 1, "not measured"
    assert desk.queue.rates.seconds_for(10) == pytest.approx(12)


@pytest.mark.parametrize(("size", "each"), [(3, 0), (4, 2)])
async def test_only_full_batches_tell_how_quickly_many_are_done(
    dispatch: Dispatch, clock: Clock, size: int, each: float
) -> None:
    pool = PuppetPool(max_batch=4)
    desk = dispatch(pool)
    desk.submit(items(*range(size)))
    await settle()
    await clock.advance(2 * size)
    await pool.last.finish()
    assert desk.pace(items(9)[0]).at_best(10, clock()) == pytest.approx((2 + 10 * each) / 2)


async def test_what_a_hung_worker_took_is_no_measurement(dispatch: Dispatch, clock: Clock) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    desk.submit(items(1, 2))
    await settle()
    await pool.last.report(0)
    await clock.advance(100)
    await pool.last.lose()
    assert desk.pace(items(9)[0]).at_best(0, clock()) == 0


# Faults of the scheduler


def fail(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def break_once(monkeypatch: pytest.MonkeyPatch, target: object, name: str) -> None:
    """Has the next call of a method raise."""

    def fail_once(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr(target, name, fail_once)


#: Parts that a dispatcher works with, and what it asks of each.
PARTS = [
    ("queue", "take"),
    ("queue", "settle_up"),
    ("queue", "retry"),
    ("rates", "update"),
    ("ledger", "expire"),
    ("ledger", "changed"),
    ("observer", "queue_depth_changed"),
    ("observer", "batch_started"),
    ("observer", "waited"),
    ("observer", "batch_ended"),
    ("observer", "retried"),
]


def part_of(desk: Dispatching, log: Log, name: str) -> object:
    return {"queue": desk.queue, "rates": desk.queue.rates, "ledger": desk.ledger, "observer": log}[name]


@pytest.mark.parametrize(("part", "broken"), PARTS)
async def test_what_a_fault_leaves_of_a_batch_is_run_again(
    dispatch: Dispatch,
    clock: Clock,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: str,
    broken: str,
) -> None:
    pool = PuppetPool(max_batch=4)
    desk = dispatch(pool)
    waiters = desk.submit(items(0, 1, 2, 3))
    answers: list[Waiter] = []
    for waiter in waiters:
        waiter.add_done_callback(answers.append)
    break_once(monkeypatch, part_of(desk, log, part), broken)
    await settle()
    await clock.advance(1)
    await pool.last.report(0)
    await pool.last.lose()
    await clock.advance(1)
    while pool.running:
        await pool.last.finish()
        await clock.advance(1)
    assert "the scheduler failed" in caplog.text
    assert Counter(answers) == Counter(waiters)
    assert not len(desk.queue._turns), "nobody is taken to have something in flight"
    assert [waiter.outcome for waiter in waiters] == [evaluation_of(cell(index)) for index in range(4)]


@pytest.mark.parametrize(("part", "broken"), PARTS)
async def test_a_slot_outlives_a_fault_that_stays(
    dispatch: Dispatch, clock: Clock, log: Log, monkeypatch: pytest.MonkeyPatch, part: str, broken: str
) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    waiters = desk.submit(items(0, 1))
    monkeypatch.setattr(part_of(desk, log, part), broken, fail)
    for _ in range(10):
        await clock.advance(1)
        for run in pool.running:
            await run.lose()
    monkeypatch.undo()
    waiters += desk.submit(items(2))
    for _ in range(5):
        await clock.advance(1)
        for run in pool.running:
            await run.finish()
    assert waiters[2].outcome == evaluation_of(cell(2))
    assert all(waiter.done for waiter in waiters)
    assert desk.queue.in_flight == 0


async def test_a_fault_with_one_architecture_alone_fails_it(
    dispatch: Dispatch, clock: Clock, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    break_once(monkeypatch, log, "batch_started")
    [first] = desk.submit(items(0))
    await settle()
    assert outcomes([first]) == [ArchitectureFailedError]
    [second] = desk.submit(items(1))
    await clock.advance(1)
    await pool.last.finish()
    assert second.outcome == evaluation_of(cell(1))


async def test_what_cannot_be_run_again_is_answered_all_the_same(
    dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    waiters = desk.submit(items(0, 1))
    await settle()
    monkeypatch.setattr(desk.queue, "retry", fail)
    await pool.last.lose()
    assert outcomes(waiters) == [ArchitectureFailedError] * 2
    assert desk.queue.in_flight == 0


async def test_a_fault_with_one_answer_keeps_no_other_back(
    dispatch: Dispatch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    waiters = desk.submit(items(0, 1, 2))
    await settle()
    with monkeypatch.context() as broken:
        broken.setattr(desk.queue, "retry", fail)
        break_once(monkeypatch, desk.queue, "remove")
        await pool.last.lose()
    assert outcomes(waiters) == [ArchitectureFailedError] * 3
    [after] = desk.submit(items(3))
    await clock.advance(1)
    await pool.last.finish()
    assert after.outcome == evaluation_of(cell(3))


async def test_a_fault_that_stays_does_not_keep_the_event_loop_to_itself(
    dispatch: Dispatch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = PuppetPool()
    desk = dispatch(pool)
    tried_at = []

    def fail_again(*_: object) -> None:
        tried_at.append(clock())
        raise ZeroDivisionError

    monkeypatch.setattr(desk.queue, "take", fail_again)
    desk.submit(items(0))
    await settle()
    assert len(tried_at) == 1
    for _ in range(3):
        await clock.advance(1)
    assert len(tried_at) == 4


# The end


async def test_stop_gives_up_what_runs(dispatch: Dispatch, log: Log) -> None:
    pool = PuppetPool(slots=2, max_batch=1)
    desk = dispatch(pool)
    desk.submit(items(1, 2, 3))
    await settle()
    for _ in range(2):
        await desk.dispatcher.stop()
        assert [run.ending.cancelled() for run in pool.runs] == [True, True]
        assert log.counts("batch_ended") == [(1, 0.0, None)] * 2
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_stop_of_a_dispatcher_that_was_not_started(clock: Clock, log: Log) -> None:
    await Dispatching(PuppetPool(), clock, log, batch_delay=0).dispatcher.stop()


@pytest.mark.parametrize("broken", [True, False])
async def test_stop_does_not_wait_for_a_slot_that_rests_or_holds(
    dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    pool = PuppetPool(slots=2)
    desk = dispatch(pool, batch_delay=1.0)
    desk.submit(items(1))
    if broken:
        break_once(monkeypatch, desk.queue, "take")
    await settle()
    await desk.dispatcher.stop()
    check_timers()
    assert not pool.runs
