"""Who goes first: clients take turns, priorities age, and what is hopeless is not waited for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from archscore_server.engine import EvaluationConfig
from archscore_server.scheduler import (
    ArchitectureFailedError,
    DeadlineExceededError,
    Item,
    Priority,
    QueueFullError,
    Scheduler,
)
from puppets import Clock, PuppetPool, cell, evaluation_of, settle
from support.scheduling import CONFIG, TCET, Start, items

OTHER = EvaluationConfig(batch_size=8)


async def occupy(scheduler: Scheduler) -> None:
    """Keeps the slots busy, so that everything else waits."""
    scheduler.submit(items(15_000), client="occupier")
    await settle()


async def next_batch(pool: PuppetPool, clock: Clock, seconds: float = 1.0) -> list[int]:
    """Lets the running batch take some seconds; the next one."""
    await clock.advance(seconds)
    await pool.last.finish()
    return pool.last.indices


# Turns


async def test_ten_architectures_are_not_shut_out_by_a_hundred_thousand(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    many = [Item(cell(index % 15_000), TCET, replace(CONFIG, seed=index // 15_000)) for index in range(100_000)]
    scheduler.submit(many, client="many")
    few = scheduler.submit(items(*range(10), config=OTHER), client="few")
    for _ in range(20):
        await next_batch(pool, clock)
    assert sum(waiter.done for waiter in few) >= 9


async def test_clients_take_turns_within_a_batch(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=4)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(*range(100, 120)), client="a")
    scheduler.submit(items(*range(200, 202)), client="b")
    assert await next_batch(pool, clock) == [100, 200, 101, 201]
    assert await next_batch(pool, clock) == [102, 103, 104, 105]


async def test_turns_are_of_time_not_of_architectures(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(*range(100, 150)), client="slow")
    scheduler.submit(items(*range(200, 290), config=OTHER), client="quick")
    spent = {"slow": 0.0, "quick": 0.0}
    [running] = await next_batch(pool, clock)
    for _ in range(60):
        client, seconds = ("slow", 9.0) if running < 200 else ("quick", 1.0)
        spent[client] += seconds
        [running] = await next_batch(pool, clock, seconds)
    assert spent["quick"] == pytest.approx(spent["slow"], abs=10)


async def test_who_comes_late_has_saved_up_nothing(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(*range(100, 140)), client="early")
    for _ in range(20):
        await next_batch(pool, clock)
    scheduler.submit(items(*range(200, 240)), client="late")
    taken = [(await next_batch(pool, clock))[0] // 100 for _ in range(10)]
    assert 4 <= taken.count(2) <= 6


async def test_who_asks_for_one_thing_at_a_time_does_not_get_more_than_its_share(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(*range(100, 190)), client="patient")
    spent = {"patient": 0.0, "eager": 0.0}
    waiters = scheduler.submit(items(200, config=OTHER), client="eager")
    for number in range(201, 261):
        if waiters[0].done:
            waiters = scheduler.submit(items(number, config=OTHER), client="eager")
        [running] = await next_batch(pool, clock, 9.0 if pool.last.indices[0] >= 200 else 1.0)
        spent["eager" if running >= 200 else "patient"] += 9.0 if running >= 200 else 1.0
    assert spent["eager"] <= spent["patient"] + 20


async def test_what_was_dropped_is_not_paid_for(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await measured(scheduler, pool, clock, seconds=10)
    for number in range(5):
        scheduler.submit(items(number, config=replace(CONFIG, seed=number)), client="hurried", deadline=clock() + 8)
    scheduler.submit(items(*range(100, 110)), client="hurried")
    scheduler.submit(items(*range(200, 210)), client="patient")
    # What is dropped, one after the other, is what the first client has before the rest.
    taken = [(await next_batch(pool, clock, seconds=7))[0] // 100 for _ in range(10)]
    assert taken.count(1) == taken.count(2) == 5


async def test_who_paid_too_much_gets_it_back(start: Start, clock: Clock) -> None:
    pool = PuppetPool(slots=2, max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(200, 201, 202, config=OTHER), client="other")
    await settle()
    occupied, other = pool.runs
    scheduler.submit(items(100, 101, config=replace(CONFIG, resolution=16)), client="quick")
    await occupied.finish()
    quick = pool.last
    await clock.advance(0.4)
    await other.finish()
    assert (quick.indices, pool.last.indices) == ([100], [201])
    # It was taken to cost a second, and that of the other 0.4 s for each of two.
    await clock.advance(0.1)
    await quick.finish()
    assert pool.last.indices == [101]


async def test_who_joins_others_work_does_not_wait_for_their_turn(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(*range(100, 200)), client="many")
    [joined] = scheduler.submit(items(190), client="one")
    for _ in range(3):
        await next_batch(pool, clock)
    assert joined.outcome == evaluation_of(cell(190))
    assert [index for run in pool.runs for index in run.indices].count(190) == 1


async def test_when_one_of_two_leaves_the_other_keeps_its_place(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    [first] = scheduler.submit(items(100), client="a")
    [second] = scheduler.submit(items(100), client="b")
    first.leave()
    assert scheduler.queued == 1
    assert await next_batch(pool, clock) == [100]
    await pool.last.finish()
    assert second.outcome == evaluation_of(cell(100))


# Priorities


async def test_the_least_urgent_are_passed_over_seven_times_at_most(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(*range(100, 110)), priority=Priority.BULK)
    scheduler.submit(items(*range(200, 300)), priority=Priority.DEFAULT)
    taken = [(await next_batch(pool, clock))[0] // 100 for _ in range(24)]
    assert taken == [2, 2, 2, 2, 2, 2, 2, 1] * 3


async def test_all_priorities_go_on(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    for number, priority in enumerate(Priority, 1):
        scheduler.submit(items(*range(100 * number, 100 * number + 90)), priority=priority)
    taken = [(await next_batch(pool, clock))[0] // 100 for _ in range(64)]
    assert min(taken.count(1), taken.count(2)) >= 7
    assert taken.count(3) >= 45


async def test_what_is_urgent_is_followed_by_the_rest_of_its_group(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=4)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(100, 101, 102), priority=Priority.BULK)
    scheduler.submit(items(200), priority=Priority.INTERACTIVE)
    assert await next_batch(pool, clock) == [200, 100, 101, 102]


async def test_what_has_aged_comes_first_in_its_batch_too(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=2)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(*range(100, 104)), priority=Priority.BULK)
    scheduler.submit(items(*range(200, 220)), priority=Priority.INTERACTIVE)
    taken = [await next_batch(pool, clock) for _ in range(8)]
    assert [indices[0] // 100 for indices in taken] == [2] * 7 + [1]
    assert taken[-1] == [100, 101]


# Deadlines


async def measured(scheduler: Scheduler, pool: PuppetPool, clock: Clock, seconds: float) -> None:
    """Has the scheduler measure how long an architecture takes, and keeps the slot busy."""
    scheduler.submit(items(14_000))
    await settle()
    await clock.advance(seconds)
    await pool.last.finish()
    await occupy(scheduler)


async def test_a_deadline_that_cannot_be_met_is_not_waited_for(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await measured(scheduler, pool, clock, seconds=10)
    queued = scheduler.queued
    waiters = scheduler.submit(items(0, 1, 2, 3), deadline=clock() + 16)
    # Twice as fast, three of them would make it.
    assert [waiter.done for waiter in waiters] == [False, False, False, True]
    assert isinstance(waiters[3].outcome, DeadlineExceededError)
    assert scheduler.queued == queued + 3


async def test_what_was_never_measured_is_tried(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await measured(scheduler, pool, clock, seconds=10)
    [waiter] = scheduler.submit(items(0, config=OTHER), deadline=clock() + 0.001)
    assert not waiter.done


async def test_others_in_line_do_not_make_a_deadline_hopeless(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await measured(scheduler, pool, clock, seconds=10)
    scheduler.submit(items(*range(100, 200)), client="many")
    [waiter] = scheduler.submit(items(0), client="one", deadline=clock() + 6)
    assert not waiter.done


@pytest.mark.parametrize("ago", [0, 1])
async def test_a_deadline_that_has_passed_is_not_waited_for(start: Start, clock: Clock, ago: float) -> None:
    scheduler = await start(PuppetPool())
    [waiter] = scheduler.submit(items(0), deadline=clock() - ago)
    assert isinstance(waiter.outcome, DeadlineExceededError)
    assert scheduler.in_flight == 0


async def test_more_urgent_work_of_ones_own_does_not_make_a_deadline_hopeless(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await measured(scheduler, pool, clock, seconds=10)
    scheduler.submit(items(*range(100, 200)), priority=Priority.INTERACTIVE)
    # Ageing lets it go before most of them.
    [waiter] = scheduler.submit(items(0), priority=Priority.BULK, deadline=clock() + 80)
    for _ in range(8):
        await next_batch(pool, clock, seconds=9)
    assert pool.last.indices == [0]
    await pool.last.finish()
    assert waiter.outcome == evaluation_of(cell(0))


async def test_small_batches_do_not_tell_how_quickly_many_are_done(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=4)
    scheduler = await start(pool)
    await measured(scheduler, pool, clock, seconds=10)
    waiters = scheduler.submit(items(0, 1, 2, 3), deadline=clock() + 15)
    await next_batch(pool, clock, seconds=0)
    await next_batch(pool, clock, seconds=10)
    assert [waiter.outcome for waiter in waiters] == [evaluation_of(cell(index)) for index in range(4)]


async def test_a_measurement_does_not_shut_out_its_kind_for_good(start: Start, clock: Clock) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    await measured(scheduler, pool, clock, seconds=100)  # whatever it was that took so long
    await pool.last.finish()
    [refused] = scheduler.submit(items(0), deadline=clock() + 30)
    assert isinstance(refused.outcome, DeadlineExceededError)
    await clock.advance(61)
    [tried] = scheduler.submit(items(0), deadline=clock() + 30)
    await settle()
    await pool.last.finish()
    assert tried.outcome == evaluation_of(cell(0))


async def test_who_comes_too_late_does_not_join_what_is_in_flight(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await occupy(scheduler)
    scheduler.submit(items(0, 1), priority=Priority.BULK)
    [late] = scheduler.submit(items(1), priority=Priority.INTERACTIVE, deadline=clock())
    assert isinstance(late.outcome, DeadlineExceededError)
    assert await next_batch(pool, clock) == [0]


# Failures


async def test_an_architecture_that_took_three_workers_is_not_given_a_fourth(start: Start, clock: Clock) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    [waiter] = scheduler.submit(items(7))
    await settle()
    for _ in range(3):
        await pool.last.lose()
    assert isinstance(waiter.outcome, ArchitectureFailedError)
    [again, other] = scheduler.submit(items(7, 8))
    assert str(again.outcome) == str(waiter.outcome)
    assert not other.done
    await settle()
    assert pool.last.indices == [8]
    await pool.last.finish()
    await clock.advance(601)
    scheduler.submit(items(7))
    await settle()
    assert pool.last.indices == [7]


async def test_a_failure_of_one_config_is_not_one_of_another(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    scheduler.submit(items(7))
    await settle()
    for _ in range(3):
        await pool.last.lose()
    [waiter] = scheduler.submit(items(7, config=OTHER))
    assert not waiter.done


async def test_what_the_engine_refused_is_tried_again(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    scheduler.submit(items(7))
    await settle()
    await pool.last.fail()
    [waiter] = scheduler.submit(items(7))
    assert not waiter.done


async def test_retries_do_not_go_twice_in_a_row_while_others_wait(start: Start) -> None:
    pool = PuppetPool(max_batch=4)
    scheduler = await start(pool)
    scheduler.submit(items(0, 1, 2, 3))
    await settle()
    scheduler.submit(items(10, 11, config=OTHER), client="other")
    await pool.last.lose()
    order = []
    for _ in range(3):
        order.append(pool.last.indices)
        await pool.last.finish()
    assert order == [[0, 1], [10, 11], [2, 3]]


# Nothing is left behind


async def test_a_thousand_clients_come_and_go(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=8)
    scheduler = await start(pool, max_queued=10_000)
    tasks = asyncio.all_tasks()
    await occupy(scheduler)
    for number in range(1_000):
        for waiter in scheduler.submit(items(number, number + 1_000), client=f"client {number}"):
            if number % 3 == 0:
                waiter.leave()
    with pytest.raises(QueueFullError):
        scheduler.submit([Item(cell(i % 15_000), TCET, replace(OTHER, seed=i)) for i in range(10_000)], client="late")
    while scheduler.in_flight:
        await next_batch(pool, clock)
    assert not len(scheduler._queue._turns)
    assert not scheduler._queue._turns._times
    assert asyncio.all_tasks() == tasks
