"""What is kept by encoding of requests that came lately: searches ask about the same architectures again and again.

Bounded in every direction: some tens of megabytes at most, and more than there are cells in NAS-Bench-201.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

#: Encodings that are kept of a kind of request, and kinds of requests of which they are.
_MAX_ENCODINGS = 16_384
_MAX_KINDS = 4
#: Characters of an encoding above which it is not kept.
_MAX_LENGTH = 512

V = TypeVar("V")


class Recent(Generic[V]):
    """Values by encoding, for each of the few kinds of requests that came last."""

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing yet.

        Args:
            seconds: how long values of a kind are kept; None keeps them while there is room.
            clock: seconds.
        """
        self._seconds = seconds
        self._clock = clock
        self._kinds: OrderedDict[Hashable, tuple[float, ByEncoding[V]]] = OrderedDict()

    def under(self, kind: Hashable) -> ByEncoding[V]:
        """The values of a kind of request; the kind that was not asked for longest goes if there are too many."""
        now = self._clock()
        since, values = self._kinds.pop(kind, (now, None))
        if values is None or (self._seconds is not None and now - since > self._seconds):
            since, values = now, ByEncoding()
        self._kinds[kind] = since, values
        if len(self._kinds) > _MAX_KINDS:
            self._kinds.popitem(last=False)
        return values


class ByEncoding(Generic[V]):
    """Values by encoding: a bounded number, those that came first go first."""

    def __init__(self) -> None:
        """None yet."""
        self._values: dict[str, V] = {}
        self.get = self._values.get

    def add(self, encoding: str, value: V) -> None:
        """Keeps a value, unless its encoding is a long one."""
        if len(encoding) > _MAX_LENGTH:
            return
        self._values[encoding] = value
        if len(self._values) > _MAX_ENCODINGS:
            del self._values[next(iter(self._values))]
