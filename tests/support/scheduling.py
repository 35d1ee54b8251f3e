"""A scheduler, or parts of one, on a clock and a pool that tests pull the strings of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from archscore_server._ledger import Ledger
from archscore_server._queue import Queue
from archscore_server._waiter import Deadline
from archscore_server.engine import EvaluationConfig
from archscore_server.scheduler import Item, Observer, Priority, Scheduler, StoppingError, Waiter
from puppets import Clock, PuppetPool, cell, settle

CONFIG = EvaluationConfig()
TCET = ("tcet",)

Start = Callable[..., Coroutine[Any, Any, Scheduler]]


def items(*indices: int, config: EvaluationConfig = CONFIG, proxies: tuple[str, ...] = TCET) -> list[Item]:
    return [Item(cell(index), proxies, config) for index in indices]


class Log:
    """An observer that keeps what it hears, queue depths apart: those of the last time by priority too."""

    def __init__(self) -> None:
        self.depths: list[int] = []
        self.queued: Mapping[Priority, int] = {}
        self.events: list[tuple[Any, ...]] = []

    def queue_depth_changed(self, queued: Mapping[Priority, int]) -> None:
        self.depths.append(sum(queued.values()))
        self.queued = queued

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.events.append((name, *arguments))

    def counts(self, name: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == name]


def outcomes(waiters: Sequence[Waiter]) -> list[object]:
    """The type of the error that each waiter ended with; else whether it is done."""
    return [
        type(waiter.outcome) if waiter.done and isinstance(waiter.outcome, Exception) else waiter.done
        for waiter in waiters
    ]


class Desk:
    """Puts items into a queue for waiters, as the scheduler does, but asks no questions."""

    def __init__(self, clock: Clock, observer: Observer, *, batch_delay: float = 0, max_batch: int = 4) -> None:
        self.queue = Queue(batch_delay=batch_delay)
        self.queue.max_batch = self.queue.max_short_batch = max_batch
        self.ledger = Ledger(self.queue, observer)
        self._clock = clock

    def submit(
        self,
        items: Sequence[Item],
        *,
        client: str = "",
        priority: Priority = Priority.DEFAULT,
        deadline: float | None = None,
    ) -> list[Waiter]:
        """One waiter for each item; equal items are the same work."""
        limit = None if deadline is None else Deadline(deadline, self._clock, self.ledger.expire)
        waiters = []
        for item in items:
            work = self.queue.find(item)
            if work:
                self.queue.claim(work, client, priority)
            else:
                work = self.queue.add(item.architecture, self.queue.group(item), client, priority, self._clock())
            waiter = Waiter(work, client, limit, self.ledger.release)
            work.waiters[waiter] = None
            waiters.append(waiter)
        self.ledger.changed()
        return waiters

    def close(self) -> None:
        """Ends what is left, and makes sure that nothing is left of it."""
        for work in self.queue.all():
            self.ledger.settle(work, StoppingError())
        self.ledger.changed()
        assert (len(self.queue), self.queue.in_flight) == (0, 0)
        assert self.queue.next_ready() is None
        assert self.queue.take(self._clock()) is None


def check_timers() -> None:
    """Makes sure that nothing is to happen on the event loop any more."""
    loop: Any = asyncio.get_running_loop()
    assert all(timer.cancelled() for timer in loop._scheduled)


@contextlib.asynccontextmanager
async def schedulers(clock: Clock, log: Log) -> AsyncIterator[Start]:
    """Starts schedulers; stops them in the end, and makes sure that nothing is left of what they did."""
    started = []

    async def start(
        pool: PuppetPool, *, max_queued: int = 1_000_000, batch_delay: float = 0, **kwargs: Any
    ) -> Scheduler:
        scheduler = Scheduler(pool, max_queued=max_queued, batch_delay=batch_delay, observer=log, clock=clock, **kwargs)
        started.append(scheduler)
        await scheduler.start()
        await settle()
        return scheduler

    yield start
    for scheduler in started:
        await scheduler.stop()
        assert (scheduler.queued, scheduler.in_flight) == (0, 0)
        assert not scheduler._queue._groups
        assert not scheduler._queue._held
        assert not scheduler._queue._ready.priorities
        assert not len(scheduler._queue._turns)
    check_timers()
