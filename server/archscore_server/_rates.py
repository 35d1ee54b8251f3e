"""How long evaluations take, as measured: moving averages over batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

#: What the latest batch counts for.
_WEIGHT = 0.2
#: Kinds of work that are remembered; the least recently measured go first.
_MAX_KINDS = 256


class Rates:
    """Seconds that an architecture occupies a slot, of all work and of each kind.

    Attributes:
        slots: batches that can run at once.
    """

    def __init__(self) -> None:
        """Nothing has been measured."""
        self.slots = 1
        self._seconds_each = 1.0
        self._by_kind: OrderedDict[Hashable, float] = OrderedDict()

    def update(self, kind: Hashable, seconds: float, architectures: int) -> None:
        """Learns from a batch that had its slot for some seconds and finished some architectures."""
        if not architectures:
            return
        each = seconds / architectures
        self._seconds_each += _WEIGHT * (each - self._seconds_each)
        known = self._by_kind.pop(kind, each)
        self._by_kind[kind] = known + _WEIGHT * (each - known)
        if len(self._by_kind) > _MAX_KINDS:
            self._by_kind.popitem(last=False)

    def measured(self, kind: Hashable) -> float | None:
        """Seconds of an architecture of this kind; None before one was measured."""
        return self._by_kind.get(kind)

    def seconds_for(self, architectures: int) -> float:
        """How long all slots together take for some architectures of any kind, within 0.1 s and a minute."""
        return min(max(0.1, architectures * self._seconds_each / self.slots), 60.0)
