"""How long evaluations take, as measured: moving averages over batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

#: What the latest batch counts for.
_WEIGHT = 0.2
#: Kinds of work that are remembered; those that were not asked for longest go first.
_MAX_KINDS = 256
#: What an evaluation is taken to cost, in seconds of a slot, before one of its kind was measured.
_UNMEASURED = 1.0
#: The part of the measured time that an evaluation may take at best.
_OPTIMISM = 0.5
#: Seconds for which a measurement may tell that something is hopeless. Not for ever: what is never tried is never
#: measured again either, and one slow batch (a cold cache, a busy machine) would shut out its kind for good.
_FRESH = 60.0


class Pace:
    """Seconds that an architecture of one kind occupies a slot."""

    __slots__ = ("_each", "_each_of_full", "_measured_at")

    def __init__(self) -> None:
        """Nothing has been measured."""
        self._each: float | None = None
        self._each_of_full: float | None = None
        self._measured_at = 0.0

    @property
    def expected(self) -> float:
        """What an evaluation is taken to cost, in seconds of a slot."""
        return _UNMEASURED if self._each is None else self._each

    def at_best(self, ahead: float, now: float) -> float:
        """Seconds until an evaluation that starts now can have ended: less than what is likely, 0 if nothing is known.

        Args:
            ahead: evaluations of its kind that its slot has to do before.
            now: the time.
        """
        if self._each is None or now > self._measured_at + _FRESH:
            return 0.0
        # Small batches do not tell how quickly many are done: a stack may take little longer than one network.
        return _OPTIMISM * (self._each + ahead * (self._each_of_full or 0.0))

    def update(self, seconds_each: float, *, full: bool, now: float) -> None:
        """Learns from a batch.

        Args:
            seconds_each: how long it had its slot, for each of its architectures.
            full: whether it had as many as a batch may have.
            now: the time.
        """
        self._measured_at = now
        self._each = _moved(self._each, seconds_each)
        if full:
            self._each_of_full = _moved(self._each_of_full, seconds_each)


class Rates:
    """How long an architecture occupies a slot: one of any kind, and one of each.

    Attributes:
        slots: batches that can run at once.
    """

    def __init__(self) -> None:
        """Nothing has been measured."""
        self.slots = 1
        self._seconds_each = _UNMEASURED
        self._paces: OrderedDict[Hashable, Pace] = OrderedDict()

    def pace(self, kind: Hashable) -> Pace:
        """That of a kind of work."""
        pace = self._paces.pop(kind, None) or Pace()
        self._paces[kind] = pace
        if len(self._paces) > _MAX_KINDS:
            self._paces.popitem(last=False)
        return pace

    def update(self, seconds: float, architectures: int) -> None:
        """Learns from a batch that had its slot for some seconds and finished some architectures."""
        if architectures:
            self._seconds_each = _moved(self._seconds_each, seconds / architectures)

    def seconds_for(self, architectures: int) -> float:
        """How long all slots together take for some architectures of any kind, within 0.1 s and a minute."""
        return min(max(0.1, architectures * self._seconds_each / self.slots), 60.0)


def _moved(average: float | None, latest: float) -> float:
    return latest if average is None else average + _WEIGHT * (latest - average)
