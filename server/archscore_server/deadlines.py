"""Deadlines as a server sees them."""

from __future__ import annotations

#: A client gives up at its own deadline, which is a moment before ours: its leaving this close to it is the deadline.
_TOLERANCE = 0.1


def is_due(remaining: float | None) -> bool:
    """Whether who leaves now, with so many seconds to its deadline (None: it has none), leaves because of it."""
    return remaining is not None and remaining <= _TOLERANCE
