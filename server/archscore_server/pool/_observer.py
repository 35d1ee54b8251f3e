"""What a pool tells whoever counts."""

from __future__ import annotations

from typing import Protocol

from archscore_server.pool._base import LossReason, Memory


class PoolObserver(Protocol):
    """Hears what becomes of workers. Called on the event loop: calls must be quick and must not raise."""

    def workers_changed(self, *, idle: int, busy: int, workers: int) -> None:
        """So many of all workers are idle now, and so many at a batch; the others start, or wait to be started."""
        ...

    def worker_lost(self, reason: LossReason) -> None:
        """A worker is gone, and another is being started."""
        ...

    def worker_memory(self, place: int, device: str, memory: Memory) -> None:
        """A worker has looked how much memory it uses.

        Args:
            place: which worker; a process that replaces another has its place.
            device: number of its GPU among those of the pool, or "cpu".
            memory: what it saw.
        """
        ...


class NullPoolObserver:
    """Does not listen."""

    def workers_changed(self, *, idle: int, busy: int, workers: int) -> None:
        """Does nothing."""

    def worker_lost(self, reason: LossReason) -> None:
        """Does nothing."""

    def worker_memory(self, place: int, device: str, memory: Memory) -> None:
        """Does nothing."""
