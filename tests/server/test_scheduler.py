from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import pytest

from archscore_server.engine import EvaluationConfig
from archscore_server.pool import Batch, BatchReport
from archscore_server.scheduler import (
    ArchitectureFailedError,
    DeadlineExceededError,
    Item,
    Priority,
    QueueFullError,
    Scheduler,
    StoppingError,
    Waiter,
)
from puppets import Clock, PuppetPool, Run, cell, evaluation_of, settle
from support.scheduling import CONFIG, TCET, Log, Start, items, outcomes

OTHER = EvaluationConfig(seed=1)


async def busy(scheduler: Scheduler, pool: PuppetPool) -> Run:
    """Keeps a slot busy with a cell that no test uses, so that everything else waits."""
    scheduler.submit(items(15_000 + len(pool.runs)))
    await settle()
    return pool.last


# Results


async def test_results_reach_their_waiters_as_stacks_finish(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    waiters = scheduler.submit(items(1, 2, 3))
    await settle()
    [run] = pool.runs
    assert run.batch == Batch((cell(1), cell(2), cell(3)), TCET, CONFIG)
    assert (scheduler.queued, scheduler.in_flight) == (0, 3)

    await run.report(1)
    assert [waiter.done for waiter in waiters] == [False, True, False]
    assert await waiters[1].result() == evaluation_of(cell(2))
    await run.report(0, 2)
    await run.end()
    assert [await waiter.result() for waiter in waiters] == [evaluation_of(cell(index)) for index in (1, 2, 3)]
    assert scheduler.in_flight == 0


async def test_done_callbacks_hear_of_results_and_of_nothing_after_leaving(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    done: list[Waiter] = []
    stays, leaves = scheduler.submit(items(1, 2))
    for waiter in (stays, leaves):
        waiter.add_done_callback(done.append)
    await settle()
    leaves.leave()
    await pool.last.finish()
    assert done == [stays]
    assert stays.outcome == evaluation_of(cell(1))
    assert not leaves.done
    with pytest.raises(asyncio.CancelledError):
        await leaves.result()


async def test_cancelling_result_does_not_end_the_interest(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    [waiter] = scheduler.submit(items(1))
    task = asyncio.create_task(waiter.result())
    await settle()
    task.cancel()
    await settle()
    await pool.last.finish()
    assert await waiter.result() == evaluation_of(cell(1))


async def test_an_empty_submission_has_no_waiters(start: Start) -> None:
    assert (await start(PuppetPool())).submit([]) == []


# Merging


async def test_equal_items_are_evaluated_once(start: Start, log: Log) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    running = await busy(scheduler, pool)
    first = scheduler.submit(items(1, 1))
    second = scheduler.submit(items(1, 2))
    assert scheduler.queued == 2
    await running.finish()
    third = scheduler.submit(items(2))  # running by now
    assert pool.last.indices == [1, 2]
    await pool.last.finish()
    assert [waiter.outcome for waiter in first + second + third] == [evaluation_of(cell(i)) for i in (1, 1, 1, 2, 2)]
    assert len(pool.runs) == 2
    assert log.counts("merged") == [(1,), (1,), (1,)]


@pytest.mark.parametrize("difference", [{"config": OTHER}, {"proxies": ("snip",)}])
async def test_items_that_differ_in_anything_are_not_merged(start: Start, difference: dict[str, Any]) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    await busy(scheduler, pool)
    scheduler.submit(items(1))
    scheduler.submit(items(1, **difference))
    assert scheduler.queued == 2


async def test_what_has_been_answered_is_evaluated_anew(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    for _ in range(2):
        scheduler.submit(items(1))
        await settle()
        await pool.last.finish()
    assert [run.indices for run in pool.runs] == [[1], [1]]


async def test_the_result_of_a_running_item_that_nobody_waits_for_is_dropped(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    [leaves, stays] = scheduler.submit(items(1, 2))
    await settle()
    leaves.leave()
    assert scheduler.in_flight == 2
    await pool.last.finish()
    assert stays.done
    assert scheduler.in_flight == 0


async def test_a_running_item_that_lost_its_waiters_can_be_joined_again(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    [waiter] = scheduler.submit(items(1))
    await settle()
    waiter.leave()
    [again] = scheduler.submit(items(1))
    await pool.last.finish()
    assert again.outcome == evaluation_of(cell(1))
    assert len(pool.runs) == 1


# Order and batches


async def test_urgent_work_goes_first_and_equals_in_order_of_arrival(start: Start) -> None:
    pool = PuppetPool(max_batch=2)
    scheduler = await start(pool)
    running = await busy(scheduler, pool)
    scheduler.submit(items(1, config=OTHER), priority=Priority.BULK)
    scheduler.submit(items(2, 3, 4))
    scheduler.submit(items(5), priority=Priority.INTERACTIVE)
    await running.finish()
    for expected in ([5, 2], [3, 4], [1]):
        assert pool.last.indices == expected
        await pool.last.finish()


async def test_a_more_urgent_waiter_raises_the_priority(start: Start) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    running = await busy(scheduler, pool)
    scheduler.submit(items(1, 2), priority=Priority.BULK)
    scheduler.submit(items(3))
    scheduler.submit(items(2), priority=Priority.INTERACTIVE)
    scheduler.submit(items(2), priority=Priority.BULK)
    await running.finish()
    for expected in ([2], [3], [1]):
        assert pool.last.indices == expected
        await pool.last.finish()


async def test_a_batch_has_one_config_and_one_set_of_proxies(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    running = await busy(scheduler, pool)
    scheduler.submit(
        [*items(1), *items(2, config=OTHER), *items(3), *items(4, proxies=("snip",)), *items(5, config=OTHER)]
    )
    await running.finish()
    for expected in ([1, 3], [2, 5], [4]):
        assert pool.last.indices == expected
        await pool.last.finish()


async def test_idle_slots_share(start: Start) -> None:
    pool = PuppetPool(slots=3, max_batch=100)
    scheduler = await start(pool)
    scheduler.submit(items(*range(10)))
    await settle()
    assert [len(run.indices) for run in pool.runs] == [4, 4, 2]


async def test_a_slot_leaves_their_share_to_busy_slots(start: Start, log: Log) -> None:
    pool = PuppetPool(slots=2, max_batch=100)
    scheduler = await start(pool)
    first, second = await busy(scheduler, pool), await busy(scheduler, pool)
    scheduler.submit(items(*range(9)))
    await first.finish()
    # 9 wait and 1 runs: 5 for each slot.
    assert pool.last.indices == [0, 1, 2, 3, 4]
    await second.finish()
    assert pool.last.indices == [5, 6, 7, 8]
    assert log.counts("batch_started") == [(1, "waited"), (1, "waited"), (5, "waited"), (4, "waited")]


async def test_a_full_queue_makes_full_batches(start: Start, log: Log) -> None:
    pool = PuppetPool(slots=1, max_batch=4)
    scheduler = await start(pool, batch_delay=1.0)
    scheduler.submit(items(*range(9)))
    await settle()
    for expected in ([0, 1, 2, 3], [4, 5, 6, 7], [8]):
        assert pool.last.indices == expected
        await pool.last.finish()
    assert log.counts("batch_started") == [(4, "full"), (4, "full"), (1, "waited")]
    assert log.counts("batch_ended") == [(size, 0.0, BatchReport(1.0)) for size in (4, 4, 1)]


async def test_a_batch_that_fills_goes_at_once(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=2)
    scheduler = await start(pool, batch_delay=1.0)
    scheduler.submit(items(1))
    await clock.advance(0.5)
    scheduler.submit(items(2))
    await settle()
    assert pool.last.indices == [1, 2]


async def test_a_group_that_is_held_does_not_hold_a_full_one(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=2)
    scheduler = await start(pool, batch_delay=1.0)
    scheduler.submit(items(1), priority=Priority.INTERACTIVE)
    scheduler.submit(items(2, 3, config=OTHER), priority=Priority.BULK)
    await settle()
    assert pool.last.indices == [2, 3]
    await pool.last.finish()
    await clock.advance(1.0)
    assert pool.last.indices == [1]


async def test_the_batch_size_can_be_set(start: Start) -> None:
    pool = PuppetPool(max_batch=4)
    scheduler = await start(pool, max_batch=3)
    scheduler.submit(items(*range(4)))
    await settle()
    assert pool.last.indices == [0, 1, 2]


@pytest.mark.parametrize(("each", "expected"), [(0.0, 10), (0.09, 5), (0.2, 2), (2.0, 2)])
async def test_batches_of_what_takes_little_time_are_larger(
    start: Start, clock: Clock, each: float, expected: int
) -> None:
    pool = PuppetPool(max_batch=2, max_short_batch=10)
    scheduler = await start(pool)
    scheduler.submit(items(*range(40)))
    await settle()
    for size in (2, expected, expected):  # the first is not known to be short
        assert len(pool.last.indices) == size
        await clock.advance(each * size)
        await pool.last.finish()


async def test_no_batch_is_larger_than_was_set(start: Start) -> None:
    pool = PuppetPool(max_batch=2, max_short_batch=10)
    scheduler = await start(pool, max_batch=3)
    scheduler.submit(items(*range(40)))
    await settle()
    for _ in range(3):
        assert len(pool.last.indices) == 3
        await pool.last.finish()


# Admission


async def test_a_full_queue_takes_all_of_a_submission_or_nothing(start: Start, log: Log) -> None:
    pool = PuppetPool()
    scheduler = await start(pool, max_queued=3)
    await busy(scheduler, pool)  # running: does not count
    scheduler.submit(items(1, 2))
    with pytest.raises(QueueFullError) as caught:
        scheduler.submit(items(3, 4))
    assert caught.value.retry_after > 0
    assert scheduler.queued == 2
    # What is in flight already, and repetitions, need no room.
    scheduler.submit(items(3, 3, 2, 1, 15_000))
    assert scheduler.queued == 3
    scheduler.submit(items(3))
    with pytest.raises(QueueFullError):
        scheduler.submit(items(4))
    assert log.depths[-1] == 3


async def test_what_waits_is_counted_at_its_most_urgent_priority(start: Start, log: Log) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    await busy(scheduler, pool)
    bulk = scheduler.submit(items(1, 2, 3), priority=Priority.BULK)
    scheduler.submit(items(3, 4), priority=Priority.INTERACTIVE)
    assert log.queued == {Priority.BULK: 2, Priority.DEFAULT: 0, Priority.INTERACTIVE: 2}
    scheduler.submit(items(4), priority=Priority.BULK)
    bulk[0].leave()
    assert log.queued == {Priority.BULK: 1, Priority.DEFAULT: 0, Priority.INTERACTIVE: 2}
    await pool.last.finish()
    assert not any(log.queued.values())
    await pool.last.lose()
    # The halves of what was lost: one runs, the other one waits, and is asked for again more urgently.
    assert sum(log.queued.values()) == scheduler.queued == 1
    scheduler.submit(items(2), priority=Priority.INTERACTIVE)
    assert log.queued == {Priority.BULK: 0, Priority.DEFAULT: 0, Priority.INTERACTIVE: 1}


async def test_retry_after_follows_the_service_rate(start: Start, clock: Clock) -> None:
    pool = PuppetPool(slots=2, max_batch=1)
    scheduler = await start(pool, max_queued=1)
    for index in range(40):
        scheduler.submit(items(index))
        await settle()
        await clock.advance(3.0)
        await pool.last.finish()
    first, second = await busy(scheduler, pool), await busy(scheduler, pool)
    assert {first, second} == set(pool.running)
    scheduler.submit(items(100))
    with pytest.raises(QueueFullError) as caught:
        scheduler.submit(items(*range(200, 204)))
    # Four too many, 3 s each, on two slots.
    assert caught.value.retry_after == pytest.approx(6.0, rel=0.01)
    with pytest.raises(QueueFullError) as caught:
        scheduler.submit(items(*range(200, 400)))
    assert caught.value.retry_after == 60.0


# Deadlines


async def test_an_item_whose_deadline_passes_in_the_queue_is_not_evaluated(
    start: Start, clock: Clock, log: Log
) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    running = await busy(scheduler, pool)
    late = scheduler.submit(items(1, 2), deadline=clock.now + 5)
    [patient] = scheduler.submit(items(3))
    await clock.advance(4.9)
    assert outcomes(late) == [False, False]
    await clock.advance(0.1)
    assert outcomes(late) == [DeadlineExceededError] * 2
    with pytest.raises(DeadlineExceededError):
        await late[0].result()
    assert scheduler.queued == 1
    assert log.counts("expired") == [(2,)]
    await running.finish()
    assert pool.last.indices == [3]
    await pool.last.finish()
    assert patient.done


async def test_no_timer_outlives_its_waiters(start: Start, clock: Clock) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    waiters = scheduler.submit(items(1, 2), deadline=clock.now + 5)
    [leaves] = scheduler.submit(items(3), deadline=clock.now + 5)
    await settle()
    leaves.leave()
    while not all(waiter.done for waiter in waiters):
        await pool.last.finish()
    timers = [waiter.deadline._timer for waiter in (*waiters, leaves) if waiter.deadline]
    assert all(timer.cancelled() for timer in timers)


# The end


async def test_drain_refuses_what_is_new_and_waits_for_the_rest(start: Start) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    waiters = scheduler.submit(items(1, 2))
    await settle()
    drain = asyncio.create_task(scheduler.drain())
    await settle()
    with pytest.raises(StoppingError):
        scheduler.submit(items(1))
    assert scheduler.submit([]) == [], "of a request whose answers were all known"
    for _ in range(2):
        assert not drain.done()
        await pool.last.finish()
    assert drain.done()
    assert outcomes(waiters) == [True, True]
    assert not pool.stopped


async def test_drain_of_an_idle_scheduler_returns_at_once(start: Start) -> None:
    scheduler = await start(PuppetPool())
    await scheduler.drain()


async def test_stop_fails_what_is_left(start: Start) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool, batch_delay=1.0)
    waiters = scheduler.submit(items(1, 2))
    scheduler.submit(items(3), deadline=2000.0)
    await settle()
    drain = asyncio.create_task(scheduler.drain())
    await settle()
    await scheduler.stop()
    assert outcomes(waiters) == [StoppingError] * 2
    assert pool.stopped
    await drain
    with pytest.raises(StoppingError):
        scheduler.submit(items(1))
    await pool.runs[0].report(0)  # too late: dropped
    assert outcomes(waiters) == [StoppingError] * 2
    assert len(asyncio.all_tasks()) == 1


async def test_stop_before_start(clock: Clock) -> None:
    pool = PuppetPool()
    scheduler = Scheduler(pool, max_queued=10, batch_delay=0, clock=clock)
    waiters = scheduler.submit(items(1))
    await scheduler.stop()
    assert outcomes(waiters) == [StoppingError]
    assert pool.stopped


# Everything at once


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_everybody_who_stays_gets_one_right_answer(
    start: Start, clock: Clock, seed: int
) -> None:
    chance = random.Random(seed)
    pool = PuppetPool(slots=3, max_batch=4)
    scheduler = await start(pool, max_queued=40, batch_delay=0.5)
    asked: list[tuple[Waiter, int, bool]] = []
    answers: Counter[Waiter] = Counter()
    left: set[Waiter] = set()
    for _ in range(600):
        match chance.choice(["submit", "submit", "leave", "report", "finish", "finish", "lose", "fail", "pass"]):
            case "submit":
                indices = [chance.randrange(30) for _ in range(chance.randrange(1, 6))]
                deadline = chance.choice([None, None, clock.now + chance.uniform(-1, 20)])
                try:
                    waiters = scheduler.submit(
                        items(*indices, config=chance.choice([CONFIG, OTHER])),
                        client=chance.choice("abcde"),
                        priority=chance.choice(list(Priority)),
                        deadline=deadline,
                    )
                except QueueFullError:
                    continue
                for waiter, index in zip(waiters, indices, strict=True):
                    waiter.add_done_callback(lambda waiter: answers.update([waiter]))
                    asked.append((waiter, index, deadline is not None))
            case "leave" if asked:
                waiter = chance.choice(asked)[0]
                left |= set() if waiter.done else {waiter}
                waiter.leave()
            case "report" if pool.running:
                run = chance.choice(pool.running)
                unreported = range(run.reported, len(run.indices))
                await run.report(*unreported[: chance.randrange(3)])
            case "finish" | "lose" | "fail" as how if pool.running:
                await getattr(chance.choice(pool.running), how)()
        await clock.advance(chance.choice([0, 0.1, 1]))
    while scheduler.in_flight:
        for run in pool.running:
            await run.finish()
        await clock.advance(0.5)
    for waiter, index, hurried in asked:
        assert answers[waiter] == (waiter not in left)
        if waiter in left:
            continue
        match waiter.outcome:
            case DeadlineExceededError():
                assert hurried
            case ArchitectureFailedError():
                pass
            case outcome:
                assert outcome == evaluation_of(cell(index))
    assert scheduler.queued == 0
    assert not len(scheduler._queue._turns)


# Size


class InstantPool(PuppetPool):
    """Answers at once."""

    async def run(self, batch: Batch, on_results: Any) -> BatchReport:
        evaluation = evaluation_of(batch.architectures[0])
        await asyncio.sleep(0)
        on_results([(place, evaluation) for place in range(len(batch.architectures))])
        return BatchReport(0.0)


@pytest.mark.parametrize(("groups", "clients"), [(1, 1), (10_000, 1), (1, 1_000), (1_000, 1_000)])
async def test_a_hundred_thousand_items_take_no_time(groups: int, clients: int) -> None:
    configs = [EvaluationConfig(seed=seed) for seed in range(groups)]
    many = [
        Item(cell(number % 15_625), (f"proxy{number // 15_625}",), configs[number % groups])
        for number in range(100_000)
    ]
    scheduler = Scheduler(InstantPool(slots=4, max_batch=8), max_queued=100_000, batch_delay=0.001)
    await scheduler.start()
    began = time.process_time()
    waiters = []
    for number in range(clients):
        share = many[number * len(many) // clients : (number + 1) * len(many) // clients]
        waiters += scheduler.submit(share, client=f"{number}", deadline=time.monotonic() + 3600)
    submitted = time.process_time()
    for waiter in waiters[::2]:
        waiter.leave()
    await scheduler.drain()
    ended = time.process_time()
    await scheduler.stop()
    assert sum(waiter.done for waiter in waiters) == 50_000
    # Anything quadratic would take minutes.
    assert submitted - began < 10
    assert ended - submitted < 20


# Submissions that let others have the event loop in between


async def test_a_submission_has_its_room_from_its_start(start: Start) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool, max_queued=10)
    await busy(scheduler, pool)
    first = scheduler.submitting(items(*range(8)))
    waiters = [next(first), next(first)]
    assert scheduler.queued == 2
    with pytest.raises(QueueFullError):
        scheduler.submit(items(*range(20, 23)))
    waiters += scheduler.submit(items(20, 21))
    first.close()  # what it has not submitted it does not need
    waiters += scheduler.submit(items(*range(30, 36)))
    assert scheduler.queued == len(waiters) == 10
    with pytest.raises(QueueFullError):
        next(scheduler.submitting(items(40)))


async def test_a_submission_whose_beginning_is_done_goes_on(start: Start) -> None:
    """Others who come meanwhile are waiters for the same evaluations."""
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    submission = scheduler.submitting(items(1, 2, 3))
    waiters = [next(submission)]
    await settle()
    await pool.last.finish()
    assert waiters[0].done
    waiters += scheduler.submit(items(2))
    waiters += submission
    await settle()
    assert scheduler.in_flight == 2
    for _ in range(2):
        await pool.last.finish()
    assert outcomes(waiters) == [True] * 4
    assert len(pool.runs) == 3


@pytest.mark.parametrize("idle", [True, False])
async def test_a_deadline_holds_for_what_is_submitted_late(start: Start, clock: Clock, log: Log, idle: bool) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    submission = scheduler.submitting(items(1, 2, 3), deadline=clock() + 10)
    waiters = [next(submission)]
    await settle()
    if idle:  # nobody waits any more when the second comes
        await pool.last.finish()
    else:
        await busy(scheduler, pool)
    waiters.append(next(submission))
    await settle()
    await clock.advance(11)
    waiters += submission
    await settle()
    late = DeadlineExceededError
    assert outcomes(waiters) == [True if idle else late, late, late]


async def test_the_end_of_a_submission_after_the_end_of_the_scheduler(start: Start) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    submission = scheduler.submitting(items(1, 2, 3))
    waiters = [next(submission)]
    await settle()
    await scheduler.stop()
    waiters += submission
    assert outcomes(waiters) == [StoppingError] * 3


async def test_a_submission_that_is_admitted_is_drained(start: Start) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    submission = scheduler.submitting(items(1, 2))
    waiters = [next(submission)]
    draining = asyncio.create_task(scheduler.drain())
    await settle()
    waiters += submission
    await settle()
    for _ in range(2):
        await pool.last.finish()
    await draining
    assert outcomes(waiters) == [True, True]


# Submissions in parts, which have their room before


async def test_room_is_taken_before_all_parts_come(start: Start) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool, max_queued=10)
    await busy(scheduler, pool)
    assert scheduler.take_room(11, Priority.DEFAULT) is None
    room = scheduler.take_room(8, Priority.DEFAULT)
    assert room
    with pytest.raises(QueueFullError):
        scheduler.submit(items(*range(20, 23)))
    assert scheduler.take_room(3, Priority.DEFAULT) is None
    waiters = list(scheduler.submitting(items(0, 1, 2), room=room))
    room.give_back(2)
    waiters += scheduler.submit(items(*range(20, 24)))
    assert scheduler.queued == len(waiters) == 7
    with pytest.raises(QueueFullError):
        scheduler.submit(items(30))
    room.close()
    scheduler.submit(items(30, 31, 32))


async def test_what_joins_others_work_needs_no_room(start: Start) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool, max_queued=10)
    await busy(scheduler, pool)
    scheduler.submit(items(0, 1, 2))
    room = scheduler.take_room(7, Priority.DEFAULT)
    assert room
    list(scheduler.submitting(items(0, 1, 2), room=room))
    assert room.left == 4
    scheduler.submit(items(10, 11, 12))


async def test_what_is_late_needs_no_room(start: Start, clock: Clock) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool, max_queued=2)
    await busy(scheduler, pool)
    room = scheduler.take_room(2, Priority.DEFAULT)
    assert room
    waiters = list(scheduler.submitting(items(1, 2), deadline=clock() - 1, room=room))
    assert outcomes(waiters) == [DeadlineExceededError] * 2
    scheduler.submit(items(1, 2))


async def test_room_counts_as_what_waits(start: Start, log: Log) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await busy(scheduler, pool)
    room = scheduler.take_room(5, Priority.BULK)
    assert room
    assert log.depths[-1] == 5
    list(scheduler.submitting(items(1, 2, 3), priority=Priority.BULK, room=room))
    assert log.depths[-1] == 5
    room.close()
    assert log.depths[-1] == 3


async def test_parts_of_what_is_admitted_are_drained(start: Start) -> None:
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    room = scheduler.take_room(2, Priority.DEFAULT)
    assert room
    draining = asyncio.create_task(scheduler.drain())
    await settle()
    with pytest.raises(StoppingError):
        scheduler.take_room(1, Priority.DEFAULT)
    waiters = list(scheduler.submitting(items(1), room=room))
    await settle()
    await pool.last.finish()
    assert not draining.done()
    room.close()
    await draining
    assert outcomes(waiters) == [True]


async def test_parts_that_come_after_the_end_are_not_evaluated(start: Start) -> None:
    pool = PuppetPool()
    scheduler = await start(pool)
    room = scheduler.take_room(2, Priority.DEFAULT)
    assert room
    await scheduler.stop()
    waiters = list(scheduler.submitting(items(1, 2), room=room))
    assert outcomes(waiters) == [StoppingError] * 2
    assert not pool.runs


async def test_many_that_are_late_hold_nobody_up(start: Start, clock: Clock, log: Log) -> None:
    """Others have the event loop while the waiters of a deadline give up."""
    pool = PuppetPool(max_batch=1)
    scheduler = await start(pool)
    await busy(scheduler, pool)
    waiters = scheduler.submit(items(*range(500)), deadline=clock() + 10)
    clock.now += 11
    while not any(waiter.done for waiter in waiters):  # noqa: ASYNC110 -- one iteration at a time
        await asyncio.sleep(0)
    assert not all(waiter.done for waiter in waiters)
    await settle()
    assert outcomes(waiters) == [DeadlineExceededError] * 500
    assert sum(count for (count,) in log.counts("expired")) == 500
