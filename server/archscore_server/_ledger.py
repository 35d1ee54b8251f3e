"""What admission and dispatch have in common: how waits end, and who hears of changes."""

from __future__ import annotations

import asyncio
from typing import Final

from archscore_server._observer import Observer
from archscore_server._priority import Priority
from archscore_server._queue import Queue
from archscore_server._waiter import DeadlineExceededError, Outcome, Waiter
from archscore_server._work import Place, Work

#: Why there is no result at a deadline.
LATE: Final = "the deadline passed before the architecture was evaluated"


class Ledger:
    """Ends work and waits, and passes on every change of what waits, runs, or has room to come.

    Attributes:
        promised: room in the queue for what is to come, by priority.
        work_may_be_ready: to be set with whatever may let a batch start.
    """

    def __init__(self, queue: Queue, observer: Observer) -> None:
        """Takes the queue, and who hears how much is in it."""
        self.promised = dict.fromkeys(Priority, 0)
        self.work_may_be_ready = asyncio.Event()
        self._queue = queue
        self._observer = observer
        self._nothing_in_flight = asyncio.Event()

    async def empty(self) -> None:
        """Returns when nothing waits, runs, or has room to come."""
        while self._anything:
            self._nothing_in_flight.clear()
            await self._nothing_in_flight.wait()

    def settle(self, work: Work, outcome: Outcome) -> None:
        """Ends work, and tells all who wait for it how."""
        if work.place is Place.ENDED:  # A result that was on its way when the scheduler stopped.
            return
        waiters, work.waiters = work.waiters, {}
        # Answers come first: whatever is wrong with the queue, nobody is left waiting.
        for waiter in waiters:
            waiter.settle(outcome)
        self._queue.remove(work)

    def release(self, waiter: Waiter) -> None:
        """A waiter leaves: work for it alone is dropped unless it runs."""
        if self._detach(waiter):
            due = waiter.deadline is not None and waiter.deadline.due
            (self._observer.expired if due else self._observer.cancelled)(1)
        self.changed()

    def expire(self, waiters: list[Waiter]) -> None:
        """Waiters give up, since their deadline has passed or cannot be met; work ends up as in `release`."""
        dropped = 0
        for waiter in waiters:
            waiter.settle(DeadlineExceededError(LATE))
            dropped += self._detach(waiter)
        if dropped:
            self._observer.expired(dropped)
        self.changed()

    def changed(self) -> None:
        """To be called after every change of what waits or runs."""
        self.report()
        self.work_may_be_ready.set()

    def report(self) -> None:
        """To be called after every change of what waits, runs, or has room to come."""
        depths = {priority: depth + self.promised[priority] for priority, depth in self._queue.depths.items()}
        self._observer.queue_depth_changed(depths)
        if not self._anything:
            self._nothing_in_flight.set()

    @property
    def _anything(self) -> bool:
        """Whether anything waits, runs, or has room to come."""
        return bool(self._queue.in_flight or any(self.promised.values()))

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
