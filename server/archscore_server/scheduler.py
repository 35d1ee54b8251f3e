"""Admits and merges what is to be evaluated, and has it dispatched. Knows nothing of torch or gRPC.

A submission is admitted whole or not at all; for one that comes in parts, room is taken before. Equal items in flight
are one evaluation with several waiters. It waits in the queue, where clients take turns, until the dispatcher takes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

from archscore_server._dispatcher import Dispatcher
from archscore_server._failures import Failures
from archscore_server._ledger import LATE, Ledger
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
from archscore_server._work import Group, Item, Work
from archscore_server.pool import Pool

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

_STOPPED = "the server stopped before this architecture was evaluated"


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
        self._ledger = Ledger(self._queue, self._observer)
        self._dispatcher = Dispatcher(pool, self._queue, self._ledger, self._failures, self._observer, clock)

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
        self._dispatcher.start()

    def take_room(self, architectures: int, priority: Priority) -> Room | None:
        """Takes room in the queue for a submission that comes in parts; None if there is not so much.

        Raises:
            StoppingError: the scheduler drains or has stopped.
        """
        if self._stopping:
            raise StoppingError("the server is stopping")
        if architectures > self._free:
            return None
        room = Room(self._ledger.promised, architectures, priority, self._ledger.report)
        self._ledger.report()
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
        if not items:
            return
        if room is None and self._stopping:
            raise StoppingError("the server is stopping")
        now = self._clock()
        if deadline is not None and deadline <= now:
            if room:
                room.give_back(len(items))
            self._observer.expired(len(items))
            yield from [self._settled(client, DeadlineExceededError("the deadline has passed")) for _ in items]
            return
        promised = self._promise(items, priority) if room is None else room.spend(len(items))
        limit: Deadline | None = None
        merged = hopeless = 0
        try:
            if deadline is not None:
                limit = Deadline(deadline, self._clock, self._ledger.expire)
            group = self._queue.group(items[0])
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
                    self._ledger.work_may_be_ready.set()
                    if promised:
                        promised -= 1
                        self._ledger.promised[priority] -= 1
                waiter = Waiter(work, client, limit, self._ledger.release)
                work.waiters[waiter] = None
                yield waiter
        finally:
            self._ledger.promised[priority] -= promised
            if limit:
                limit.cancel_if_idle()
            if merged:
                self._observer.merged(merged)
            if hopeless:
                self._observer.expired(hopeless)
            self._ledger.changed()

    async def drain(self) -> None:
        """Refuses new submissions from now on, and returns when nothing waits or runs."""
        self._stopping = True
        await self._ledger.empty()

    async def stop(self) -> None:
        """Fails what is left with StoppingError, and stops the pool. Idempotent."""
        self._stopping = self._stopped = True
        for work in self._queue.all():
            self._ledger.settle(work, StoppingError(_STOPPED))
        self._ledger.changed()
        await self._dispatcher.stop()
        await self._pool.stop()

    @property
    def _free(self) -> int:
        """Architectures that there is room for."""
        return self._max_queued - self.queued - sum(self._ledger.promised.values())

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
        self._ledger.promised[priority] += new
        return new

    def _settled(self, client: str, outcome: Outcome) -> Waiter:
        waiter = Waiter(None, client, None, self._ledger.release)
        waiter.settle(outcome)
        return waiter

    def _hopeless(
        self, item: Item, work: Work | None, group: Group, client: str, priority: Priority, limit: Deadline | None
    ) -> Outcome | None:
        """What an item that is admitted ends with at once; None if there is something to wait for."""
        if self._stopped:
            return StoppingError(_STOPPED)
        if work is not None:
            return DeadlineExceededError(LATE) if limit and limit.passed else None
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
