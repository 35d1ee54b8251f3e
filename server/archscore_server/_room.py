"""Room in the queue for what nobody has looked at yet."""

from __future__ import annotations

from collections.abc import Callable

from archscore_server._priority import Priority


class Room:
    """Room in the queue for architectures of one request, which are submitted in parts.

    So a request is admitted whole, though most of its architectures are read when their turn is near: who takes a
    request back has cost the server little.

    Attributes:
        left: architectures that there is room for.
    """

    def __init__(
        self, promised: dict[Priority, int], architectures: int, priority: Priority, changed: Callable[[], None]
    ) -> None:
        """Made by `Scheduler.take_room`.

        Args:
            promised: all room that is taken, by priority.
            architectures: how many are to come.
            priority: theirs.
            changed: to be called when room has become free.
        """
        self._promised = promised
        self._priority = priority
        self._changed = changed
        self.left = architectures
        promised[priority] += architectures

    def spend(self, architectures: int) -> int:
        """So many are submitted now: from here on, their room is the scheduler's to keep account of."""
        self.left -= architectures
        return architectures

    def give_back(self, architectures: int) -> None:
        """So many will not be submitted."""
        if architectures:
            self.left -= architectures
            self._promised[self._priority] -= architectures
            self._changed()

    def close(self) -> None:
        """No more are submitted."""
        self.give_back(self.left)
