"""A cache that is bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class ByteCache(Generic[V]):
    """Values by key, up to a number of bytes; the least recently used go first.

    Attributes:
        nbytes: bytes kept now.
        max_bytes: the most that are kept.
    """

    def __init__(self, max_bytes: int) -> None:
        """Starts empty."""
        self.nbytes = 0
        self.max_bytes = max_bytes
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        """The value kept for a key, if any; it is now the most recently used."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Hashable, value: V, nbytes: int) -> None:
        """Keeps a value, in place of one of the same key; one larger than the whole cache is not kept."""
        if key in self._values:
            self.nbytes -= self._values.pop(key)[1]
        if nbytes > self.max_bytes:
            return
        self._values[key] = (value, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self.max_bytes:
            self.nbytes -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Keeps nothing any more."""
        self._values.clear()
        self.nbytes = 0
