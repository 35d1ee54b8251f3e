"""How urgent an evaluation is, and how those that are not get their turn all the same."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

#: Batches that may go to more urgent work while a priority waits; the next one is its own. So that nothing waits for
#: ever, the least urgent work has at least about an eighth of the batches.
_MAX_PASSED = 7


class Priority(IntEnum):
    """How urgent an evaluation is, as in the contract."""

    BULK = 1
    DEFAULT = 2
    INTERACTIVE = 3


class Ageing:
    """Gives the next batch to the most urgent work, unless other work was passed over too often."""

    def __init__(self) -> None:
        """Nothing was passed over."""
        self._passed = dict.fromkeys(Priority, 0)

    def next(self, waiting: Collection[Priority]) -> Priority:
        """The priority whose turn it is, of those that have ready work (at least one)."""
        chosen = max(waiting, key=lambda priority: (self._passed[priority] >= _MAX_PASSED, priority))
        for priority in Priority:
            if priority == chosen or priority not in waiting:
                self._passed[priority] = 0
            elif priority < chosen:
                self._passed[priority] += 1
        return chosen
