"""What the scheduler tells whoever counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from archscore_server._priority import Priority
from archscore_server._queue import BatchReason
from archscore_server.pool import BatchReport

#: Why evaluations run again: their worker died, or the engine raised.
RetryReason = Literal["worker_lost", "batch_failed"]


class Observer(Protocol):
    """Hears what the scheduler does, for metrics. Called on the event loop: calls must be quick and must not raise."""

    def queue_depth_changed(self, queued: Mapping[Priority, int]) -> None:
        """So many architectures wait now, by the most urgent priority that each was asked for with."""
        ...

    def waited(self, priority: Priority, seconds: float) -> None:
        """An architecture waited so long for its first batch, which starts now."""
        ...

    def batch_started(self, size: int, reason: BatchReason) -> None:
        """A batch of `size` architectures went to the pool."""
        ...

    def batch_ended(self, size: int, seconds: float, report: BatchReport | None) -> None:
        """A batch that started has ended, one way or another.

        Args:
            size: architectures that it started with.
            seconds: how long it had its slot.
            report: what its worker says of it; None if the batch was lost, failed or cut short.
        """
        ...

    def merged(self, count: int) -> None:
        """So many items of a submission joined evaluations in flight."""
        ...

    def retried(self, count: int, reason: RetryReason) -> None:
        """So many architectures will be run again."""
        ...

    def expired(self, count: int) -> None:
        """So many architectures were dropped from the queue: the deadlines of all had passed or cannot be met."""
        ...

    def cancelled(self, count: int) -> None:
        """So many architectures were dropped from the queue: every waiter had left."""
        ...


class NullObserver:
    """Does not listen."""

    def queue_depth_changed(self, queued: Mapping[Priority, int]) -> None:
        """Does nothing."""

    def waited(self, priority: Priority, seconds: float) -> None:
        """Does nothing."""

    def batch_started(self, size: int, reason: BatchReason) -> None:
        """Does nothing."""

    def batch_ended(self, size: int, seconds: float, report: BatchReport | None) -> None:
        """Does nothing."""

    def merged(self, count: int) -> None:
        """Does nothing."""

    def retried(self, count: int, reason: RetryReason) -> None:
        """Does nothing."""

    def expired(self, count: int) -> None:
        """Does nothing."""

    def cancelled(self, count: int) -> None:
        """Does nothing."""
