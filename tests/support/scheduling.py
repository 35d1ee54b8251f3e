"""A scheduler on a clock and a pool that tests pull the strings of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from archscore_server.engine import EvaluationConfig
from archscore_server.scheduler import Item, Priority, Scheduler
from puppets import Clock, PuppetPool, cell, settle

CONFIG = EvaluationConfig()
TCET = ("tcet",)

Start = Callable[..., Coroutine[Any, Any, Scheduler]]


def items(*indices: int, config: EvaluationConfig = CONFIG, proxies: tuple[str, ...] = TCET) -> list[Item]:
    return [Item(cell(index), proxies, config) for index in indices]


class Log:
    """An observer that keeps what it hears, queue depths apart."""

    def __init__(self) -> None:
        self.depths: list[int] = []
        self.events: list[tuple[Any, ...]] = []

    def queue_depth_changed(self, queued: Mapping[Priority, int]) -> None:
        self.depths.append(sum(queued.values()))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.events.append((name, *arguments))

    def counts(self, name: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == name]


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
    loop: Any = asyncio.get_running_loop()
    assert all(timer.cancelled() for timer in loop._scheduled)
