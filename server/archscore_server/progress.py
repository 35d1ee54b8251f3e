"""How far the architectures of a request are: which wait for a worker, and which results can be given out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import partial

from archscore_server import errors
from archscore_server.engine import ArchitectureTooLargeError, Score
from archscore_server.metrics import ArchitectureOutcome
from archscore_server.results import Numbered, Result, evaluated, stopped
from archscore_server.scheduler import ArchitectureFailedError, DeadlineExceededError, Item, StoppingError, Waiter

#: Results that are given out together at most: a response of theirs stays far below gRPC's limit of 4 MiB.
_MAX_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Pending:
    """An architecture that waits for a worker.

    Attributes:
        index: its position in the request.
        item: what is to be evaluated.
        known: scores that need no worker.
        stored: the proxies of those that came from the store.
    """

    index: int
    item: Item
    known: Mapping[str, Score]
    stored: Set[str]


@dataclass(slots=True)
class Progress:
    """How far the architectures of a request are.

    Attributes:
        unanswered: how many results have not been given out.
        waiters: those for architectures that wait.
    """

    unanswered: int
    waiters: dict[Waiter, None] = field(default_factory=dict)
    _finished: deque[Numbered] = field(default_factory=deque)
    _any_finished: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def waiting(self) -> int:
        """How many architectures wait for a worker, or have one."""
        return len(self.waiters)

    @property
    def finished(self) -> bool:
        """Whether there is something to be given out."""
        return bool(self._finished)

    def finish(self, *results: Numbered) -> None:
        """Notes results."""
        self._finished.extend(results)
        if results:
            self._any_finished.set()

    def wait_for(self, pending: Pending, waiter: Waiter) -> None:
        """Expects the result of an architecture that waits."""
        self.waiters[waiter] = None
        waiter.add_done_callback(partial(self._settled, pending))

    async def any_finished(self) -> None:
        """Returns when there is something to be given out."""
        await self._any_finished.wait()

    def next_chunk(self) -> list[Numbered]:
        """Gives out what has finished, or a part of it."""
        if len(self._finished) > _MAX_CHUNK:
            chunk = [self._finished.popleft() for _ in range(_MAX_CHUNK)]
        else:
            chunk = list(self._finished)
            self._finished.clear()
            self._any_finished.clear()
        self.unanswered -= len(chunk)
        return chunk

    def leave(self) -> None:
        """Gives up what has not finished."""
        for waiter in self.waiters:
            waiter.leave()

    def _settled(self, one: Pending, waiter: Waiter) -> None:
        del self.waiters[waiter]
        self.finish((one.index, _settled(one, waiter)))


def _settled(one: Pending, waiter: Waiter) -> Result:
    outcome = waiter.outcome
    if isinstance(outcome, ArchitectureFailedError):
        return Result(errors.architecture_failed(str(outcome)), ArchitectureOutcome.FAILED)
    if isinstance(outcome, DeadlineExceededError):
        return Result(errors.deadline_exceeded(), ArchitectureOutcome.EXPIRED)
    if isinstance(outcome, StoppingError):
        return stopped()
    if isinstance(outcome, ArchitectureTooLargeError):
        status = errors.architecture_too_large("max_bytes", outcome.needed, outcome.available)
        return Result(status, ArchitectureOutcome.TOO_LARGE)
    return evaluated({**one.known, **outcome.scores}, one.stored)
