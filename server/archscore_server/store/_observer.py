"""What the store tells whoever counts."""

from __future__ import annotations

from typing import Protocol


class StoreObserver(Protocol):
    """Hears what the store does, for metrics. Called on the event loop: calls must be quick and must not raise."""

    def store_hits(self, count: int) -> None:
        """So many scores that were asked for were there."""
        ...

    def store_misses(self, count: int) -> None:
        """So many scores that were asked for were not there."""
        ...

    def store_written(self, count: int) -> None:
        """So many scores were written."""
        ...

    def store_write_failed(self) -> None:
        """A transaction could not be written."""
        ...

    def store_dropped(self, count: int) -> None:
        """So many scores were given up unwritten: they live on in the memory layer only."""
        ...

    def store_entries_changed(self, entries: int) -> None:
        """The store holds so many scores now."""
        ...

    def store_state_changed(self, up: bool) -> None:
        """The store can, or can no longer, be read and written."""
        ...


class NullStoreObserver:
    """Does not listen."""

    def store_hits(self, count: int) -> None:
        """Does nothing."""

    def store_misses(self, count: int) -> None:
        """Does nothing."""

    def store_written(self, count: int) -> None:
        """Does nothing."""

    def store_write_failed(self) -> None:
        """Does nothing."""

    def store_dropped(self, count: int) -> None:
        """Does nothing."""

    def store_entries_changed(self, entries: int) -> None:
        """Does nothing."""

    def store_state_changed(self, up: bool) -> None:
        """Does nothing."""
