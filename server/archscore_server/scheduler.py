"""Admits, merges, batches, dispatches and retries. Knows nothing of torch or gRPC.

A submission is admitted whole or not at all; for one that comes in parts, room is taken before. Equal items in flight
are one evaluation with several waiters. One task per slot of the pool takes batches from the queue, where clients take
turns. What a lost worker or a failed batch leaves behind is run again in halves until a culprit stands alone, so that
one bad architecture never fails another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence

from archscore_server._failures import Failures
from archscore_server._observer import NullObserver, Observer, RetryReason
from archscore_server._priority import Priority
from archscore_server._queue import BatchReason, Queue
from archscore_server._room import Room
from archscore_server._waiter import (
    ArchitectureFailedError,
    Deadline,
    DeadlineExceededError,
    Outcome,
    QueueFullError,
    StoppingError,
    Waiter,
)
from archscore_server._work import Group, Item, Place, Work
from archscore_server.engine import ArchitectureTooLargeError, Evaluation
from archscore_server.pool import Batch, BatchFailedError, BatchReport, Pool, WorkerLostError

__all__ = [
    "ArchitectureFailedError",
    "BatchReason",
    "DeadlineExceededError",
    "Item",
    "NullObserver",
    "Observer",
    "Outcome",
    "Priority",
    "QueueFullError",
    "RetryReason",
    "Room",
    "Scheduler",
    "StoppingError",
    "Waiter",
]

#: Workers that an architecture may take with it, alone in its batch, before it is given up.
_MAX_LONE_DEATHS = 3

#: Seconds that a slot rests after a fault of the scheduler's own, so that one that stays does not block the event loop.
_REST_AFTER_FAULT = 0.1

#: What a client is told when an architecture is given up. The pool's own words are for the log.
_GAVE_UP: dict[RetryReason, str] = {
    "worker_lost": f"{_MAX_LONE_DEATHS} worker processes died while each evaluated nothing but this architecture",
    "batch_failed": "the evaluation of this architecture raised an error",
}

_LATE = "the deadline passed before the architecture was evaluated"
_STOPPED = "the server stopped before this architecture was evaluated"

_logger = logging.getLogger(__name__)


class Scheduler:
    """Turns submissions into batches and batches into results. Lives on one event loop."""

    def __init__(
        self,
        pool: Pool,
        *,
        max_queued: int,
        batch_delay: float,
        max_batch: int | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A scheduler over a pool, which it starts and stops.

        Args:
            pool: where batches run.
            max_queued: architectures that may wait at a time; running ones do not count.
            batch_delay: seconds to wait for more, from the first arrival on, before a batch starts that is not full.
            max_batch: architectures in a batch, at most; what the pool says if None.
            observer: hears what happens.
            clock: seconds; what deadlines refer to. It must advance as the event loop's own does.
        """
        self._pool = pool
        self._max_queued = max_queued
        self._max_batch = max_batch
        self._observer = observer or NullObserver()
        self._clock = clock
        self._queue = Queue(batch_delay=batch_delay)
        self._failures = Failures()
        self._stopping = False
        self._stopped = False
        self._promised = dict.fromkeys(Priority, 0)
        self._slots: list[asyncio.Task[None]] = []
        self._work_may_be_ready = asyncio.Event()
        self._nothing_in_flight = asyncio.Event()
        self._end_of_hold: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        """Architectures that wait."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Architectures that wait or run."""
        return self._queue.in_flight

    @property
    def stopped(self) -> bool:
        """Whether nothing is evaluated any more."""
        return self._stopped

    @property
    def ahead(self) -> int:
        """Architectures that should wait or run for one caller, so that no slot ever waits for more of them.

        As many as all slots can run at once, and as many again: what comes after these need not be looked at yet.
        """
        return 2 * self._queue.slots * max(self._queue.max_batch, self._queue.max_short_batch)

    def seconds_for(self, architectures: int) -> float:
        """How long so many architectures of any kind take, as measured, within 0.1 s and a minute."""
        return self._queue.rates.seconds_for(architectures)

    async def start(self) -> None:
        """Starts the pool and begins to dispatch. What was submitted before waits until then."""
        await self._pool.start()
        self._queue.slots = self._queue.rates.slots = self._pool.slots
        self._queue.max_batch = self._max_batch or self._pool.max_batch
        self._queue.max_short_batch = self._max_batch or self._pool.max_short_batch
        self._slots = [asyncio.create_task(self._serve_slot(), name=f"slot-{n}") for n in range(self._pool.slots)]

    def take_room(self, architectures: int, priority: Priority) -> Room | None:
        """Takes room in the queue for a submission that comes in parts; None if there is not so much.

        Raises:
            StoppingError: the scheduler drains or has stopped.
        """
        if self._stopping:
            raise StoppingError("the server is stopping")
        if architectures > self._free:
            return None
        room = Room(self._promised, architectures, priority, self._report)
        self._report()
        return room

    def submit(
        self,
        items: Sequence[Item],
        *,
        client: str = "",
        priority: Priority = Priority.DEFAULT,
        deadline: float | None = None,
    ) -> list[Waiter]:
        """Admits items, all or none. To be called on the event loop.

        What failed for good lately, or cannot be there in time, is admitted too, but its waiter is done at once.

        Args:
            items: what to evaluate. Those equal to one another or to items in flight share one evaluation.
            client: who asks; clients take turns.
            priority: how urgent; raises that of evaluations that are joined.
            deadline: when the waiters give up, on the scheduler's clock.

        Returns:
            One waiter for each item, in order.

        Raises:
            QueueFullError: what would have to wait does not fit in the queue.
            StoppingError: the scheduler drains or has stopped.
        """
        return list(self.submitting(items, client=client, priority=priority, deadline=deadline))

    def submitting(
        self,
        items: Sequence[Item],
        *,
        client: str = "",
        priority: Priority = Priority.DEFAULT,
        deadline: float | None = None,
        room: Room | None = None,
    ) -> Generator[Waiter, None, None]:
        """Like `submit`, one item at a time: whoever has many may let others have the event loop in between.

        Either this raises what `submit` does before the first waiter, or all are admitted. Closing it early admits no
        more items; what was given out is the caller's. Items for which there is room already are always admitted.
        """
        if room is None and self._stopping:
            raise StoppingError("the server is stopping")
        if not items:
            return
        now = self._clock()
        if deadline is not None and deadline <= now:
            if room:
                room.give_back(len(items))
            self._observer.expired(len(items))
            yield from [self._settled(client, DeadlineExceededError("the deadline has passed")) for _ in items]
            return
        promised = self._promise(items, priority) if room is None else room.spend(len(items))
        limit = None if deadline is None else Deadline(deadline, self._clock, self._expire)
        merged = hopeless = 0
        group = self._queue.group(items[0])
        try:
            for item in items:
                # A group that has become empty in between is not the queue's any more.
                if not group.works or not group.takes(item):
                    group = self._queue.group(item)
                work = group.works.get(item.architecture)
                if why := self._hopeless(item, work, group, client, priority, limit):
                    hopeless += isinstance(why, DeadlineExceededError)
                    yield self._settled(client, why)
                    continue
                if work is not None:
                    merged += 1
                    self._queue.claim(work, client, priority)
                else:
                    work = self._queue.add(item.architecture, group, client, priority, self._clock())
                    self._work_may_be_ready.set()
                    if promised:
                        promised -= 1
                        self._promised[priority] -= 1
                waiter = Waiter(work, client, limit, self._release)
                work.waiters[waiter] = None
                yield waiter
        finally:
            self._promised[priority] -= promised
            if limit:
                limit.cancel_if_idle()
            if merged:
                self._observer.merged(merged)
            if hopeless:
                self._observer.expired(hopeless)
            self._changed()

    async def drain(self) -> None:
        """Refuses new submissions from now on, and returns when nothing waits or runs."""
        self._stopping = True
        while self._anything:
            self._nothing_in_flight.clear()
            await self._nothing_in_flight.wait()

    async def stop(self) -> None:
        """Fails what is left with StoppingError, and stops the pool. Idempotent."""
        self._stopping = self._stopped = True
        for work in self._queue.all():
            self._settle(work, StoppingError(_STOPPED))
        self._changed()
        if self._end_of_hold:
            self._end_of_hold.cancel()
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        await self._pool.stop()

    # Admission

    @property
    def _free(self) -> int:
        """Architectures that there is room for."""
        return self._max_queued - self.queued - sum(self._promised.values())

    @property
    def _anything(self) -> bool:
        """Whether anything waits, runs, or has room to come."""
        return bool(self.in_flight or any(self._promised.values()))

    def _promise(self, items: Sequence[Item], priority: Priority) -> int:
        """Promises room in the queue to what would have to wait, and says how much.

        Raises:
            QueueFullError: there is not so much.
        """
        free = self._free
        new = len(items)
        # Telling what is new takes a hash of every config: not worth it while even all of them fit.
        if new > free:
            new = len({item for item in items if self._queue.find(item) is None})
            if new and new > free:
                raise QueueFullError(self._queue.rates.seconds_for(new - free))
        self._promised[priority] += new
        return new

    def _settled(self, client: str, outcome: Outcome) -> Waiter:
        waiter = Waiter(None, client, None, self._release)
        waiter.settle(outcome)
        return waiter

    def _hopeless(
        self, item: Item, work: Work | None, group: Group, client: str, priority: Priority, limit: Deadline | None
    ) -> Outcome | None:
        """What an item that is admitted ends with at once; None if there is something to wait for."""
        if self._stopped:
            return StoppingError(_STOPPED)
        if work is not None:
            return DeadlineExceededError(_LATE) if limit and limit.passed else None
        now = self._clock()
        if why := self._failures.get(item, now):
            return ArchitectureFailedError(why)
        if limit and self._cannot_meet(limit, group, client, priority, now):
            return DeadlineExceededError("the deadline cannot be met")
        return None

    def _cannot_meet(self, deadline: Deadline, group: Group, client: str, priority: Priority, now: float) -> bool:
        """Whether a newcomer would be late even if all went twice as fast as it does, and for its client alone.

        More urgent work of the client does not count: ageing may let the newcomer go before it.
        """
        ahead = group.line.count(client, priority) / self._queue.slots
        return deadline.within(group.pace.at_best(ahead, now))

    def _release(self, waiter: Waiter) -> None:
        if self._detach(waiter):
            due = waiter.deadline is not None and waiter.deadline.due
            (self._observer.expired if due else self._observer.cancelled)(1)
        self._changed()

    def _expire(self, waiters: list[Waiter]) -> None:
        dropped = 0
        for waiter in waiters:
            waiter.settle(DeadlineExceededError(_LATE))
            dropped += self._detach(waiter)
        if dropped:
            self._observer.expired(dropped)
        self._changed()

    def _detach(self, waiter: Waiter) -> bool:
        """Takes a waiter off its work. True if the work was waiting and nobody wants it any more: it is dropped."""
        work = waiter.work
        if work is None:
            return False
        del work.waiters[waiter]
        self._queue.unclaim(work, waiter.client)
        # Running work goes on: its batch cannot be stopped for one of many, and somebody may yet ask for it.
        unwanted = not work.waiters and work.place is not Place.RUNNING
        if unwanted:
            self._queue.remove(work)
        return unwanted

    def _changed(self) -> None:
        """Follows every change of what waits or runs."""
        self._report()
        self._work_may_be_ready.set()

    def _report(self) -> None:
        """Follows every change of what waits, runs, or has room to come."""
        depths = {priority: depth + self._promised[priority] for priority, depth in self._queue.depths.items()}
        self._observer.queue_depth_changed(depths)
        if not self._anything:
            self._nothing_in_flight.set()

    # Dispatch

    async def _serve_slot(self) -> None:
        while True:
            works: list[Work] = []
            try:
                works, reason = await self._next_batch()
                await self._run(works, reason)
            except Exception as fault:  # A slot outlives whatever is wrong with us, and what it held is answered.
                _logger.exception("the scheduler failed")
                self._recover(works, fault)
                await asyncio.sleep(_REST_AFTER_FAULT)

    def _recover(self, works: list[Work], fault: Exception) -> None:
        """Has what a fault of ours left without a result run again; fails it if that is what does not work."""
        try:
            self._queue.settle_up(works, 0.0)
            self._run_again(works, "batch_failed", fault, alone=len(works) == 1)
        except Exception:
            _logger.exception("the scheduler failed to run a batch again")
            for work in works:
                self._settle(work, ArchitectureFailedError(_GAVE_UP["batch_failed"]))
        self._changed()

    async def _next_batch(self) -> tuple[list[Work], BatchReason]:
        while True:
            self._work_may_be_ready.clear()
            taken = self._queue.take(self._clock())
            if taken is None:
                self._wake_at_end_of_hold()
                await self._work_may_be_ready.wait()
                continue
            return taken

    def _wake_at_end_of_hold(self) -> None:
        if self._end_of_hold:
            self._end_of_hold.cancel()
        ready_at = self._queue.next_ready()
        if ready_at is not None:
            delay = ready_at - self._clock()
            self._end_of_hold = asyncio.get_running_loop().call_later(delay, self._work_may_be_ready.set)

    def _without_late(self, works: list[Work]) -> list[Work]:
        """Drops work of a batch that nobody would still wait for at its end, even if it took half as long as it does.

        That includes what is too late already, where the event loop was too busy for timers.
        """
        seconds = works[0].group.pace.at_best(0, self._clock())
        self._expire(
            [waiter for work in works for waiter in work.waiters if waiter.deadline and waiter.deadline.within(seconds)]
        )
        late = [work for work in works if not work.waiters]
        for work in late:
            self._queue.remove(work)
        if late:
            self._queue.settle_up(late, 0.0)
            self._observer.expired(len(late))
        return [work for work in works if work.waiters]

    async def _run(self, works: list[Work], reason: BatchReason) -> None:
        """Has the pool run a batch, hands out its results as they come, and arranges for what it leaves behind."""
        group = works[0].group
        works = self._without_late(works)
        self._changed()
        if not works:
            return
        batch = Batch(tuple(work.architecture for work in works), group.proxies, group.config)
        left = dict(enumerate(works))

        def on_results(results: Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]) -> None:
            for index, result in results:
                self._settle(left[index], result)
                del left[index]
            self._changed()

        started = self._clock()
        self._observer.batch_started(len(works), reason)
        if reason != "retry":
            for work in works:
                self._observer.waited(work.priority, started - work.arrived)
        report: BatchReport | None = None
        failure: RetryReason = "batch_failed"
        error: Exception | None = None
        try:
            report = await self._pool.run(batch, on_results)
        except WorkerLostError as lost:
            failure, error = "worker_lost", lost
        except BatchFailedError as failed:
            error = failed
        except Exception as unexpected:
            _logger.exception("the pool failed to run a batch")
            error = unexpected
        finally:
            seconds = self._clock() - started
            self._queue.settle_up(works, seconds)
            self._learn(works, seconds, left=len(left))
            self._observer.batch_ended(len(works), seconds, report)
        if error is not None or left:
            self._run_again(list(left.values()), failure, error, alone=len(works) == 1)
        self._changed()

    def _learn(self, works: list[Work], seconds: float, *, left: int) -> None:
        """Takes note of how long a batch took, of which some may be left without a result."""
        self._queue.rates.update(seconds, len(works) - left)
        if not left:  # What a hung worker took does not tell how long its batch takes.
            full = len(works) >= self._queue.max_batch
            works[0].group.pace.update(seconds / len(works), full=full, now=self._clock())

    def _settle(self, work: Work, outcome: Outcome) -> None:
        if work.place is Place.ENDED:  # A result that was on its way when the scheduler stopped.
            return
        waiters, work.waiters = work.waiters, {}
        self._queue.remove(work)
        for waiter in waiters:
            waiter.settle(outcome)

    def _run_again(self, works: list[Work], reason: RetryReason, error: Exception | None, *, alone: bool) -> None:
        """Arranges for what a batch left behind: halves of it, until a culprit stands alone.

        Args:
            works: what has no result.
            reason: what happened to the batch.
            error: what the pool says of it, for the log.
            alone: whether the batch consisted of one architecture: it is to blame.
        """
        for work in works:
            if not work.waiters and work.place is Place.RUNNING:
                self._queue.remove(work)
                self._observer.cancelled(1)
        works = [work for work in works if work.place is Place.RUNNING]
        # (as text: whoever keeps the record does not keep the frames of the error)
        _logger.warning("%s, with %d architectures to run again: %s", reason, len(works), str(error))
        if not works:
            return
        if alone:
            [work] = works
            work.lone_deaths += reason == "worker_lost"
            if reason == "batch_failed" or work.lone_deaths >= _MAX_LONE_DEATHS:
                _logger.error("gave up on %s: %s", work.architecture.format(), str(error))
                if reason == "worker_lost":
                    self._failures.add(work.item, _GAVE_UP[reason], self._clock())
                self._settle(work, ArchitectureFailedError(_GAVE_UP[reason]))
                return
        self._observer.retried(len(works), reason)
        middle = (len(works) + 1) // 2
        for half in (works[:middle], works[middle:]):
            if half:
                self._queue.retry(half)
