"""The memory layer: scores that were used lately, for the event loop to read by itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from archscore.spaces import Architecture
from archscore_server.engine import Score
from archscore_server.store._context import Context


class _Entry:
    """The scores of an architecture in a context.

    Attributes:
        scores: by proxy.
        seen: when they were last asked for, in unix seconds.
        noted: when that was last to be written to the file.
    """

    __slots__ = ("noted", "scores", "seen")

    def __init__(self, now: int) -> None:
        self.scores: dict[str, Score] = {}
        self.seen = now
        self.noted = now


class Memory:
    """Scores of a bounded number of architectures.

    The first to go is the least recently used architecture of the least recently used context.
    """

    def __init__(self, max_architectures: int) -> None:
        """Nothing yet."""
        self._max_architectures = max_architectures
        self._contexts: OrderedDict[Context, OrderedDict[Architecture, _Entry]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        """How many architectures it holds; one in several contexts counts in each."""
        return self._size

    def get(
        self, context: Context, architectures: Sequence[Architecture], proxies: Sequence[str], now: int, stale: int
    ) -> tuple[list[dict[str, Score]], list[Architecture]]:
        """What is here of some architectures' scores.

        Args:
            context: what they depend on.
            architectures: whose.
            proxies: which.
            now: unix seconds.
            stale: a use that was noted before then is to be noted again.

        Returns:
            The scores by proxy for each architecture, and the architectures whose use is to be noted.
        """
        entries = self._contexts.get(context)
        if entries is None:
            return [{} for _ in architectures], []
        self._contexts.move_to_end(context)
        found: list[dict[str, Score]] = []
        to_note = []
        for architecture in architectures:
            entry = entries.get(architecture)
            if entry is None:
                found.append({})
                continue
            scores = entry.scores
            found.append({proxy: scores[proxy] for proxy in proxies if proxy in scores})
            if entry.seen != now:  # once a second is enough: moving takes as long as finding
                entry.seen = now
                entries.move_to_end(architecture)
                if entry.noted < stale:
                    entry.noted = now
                    to_note.append(architecture)
        return found, to_note

    def put(self, context: Context, architecture: Architecture, scores: Mapping[str, Score], now: int) -> None:
        """Takes in scores of an architecture, over those it holds already."""
        self._entry(self._entries(context), architecture, now).scores.update(scores)
        self._shrink()

    def fill(self, context: Context, scores: Mapping[Architecture, Mapping[str, Score]], now: int) -> None:
        """Takes in scores that were read from the file: those it holds already are newer."""
        entries = self._entries(context)
        for architecture, read in scores.items():
            entry = self._entry(entries, architecture, now)
            entry.scores = {**read, **entry.scores}
        self._shrink()

    def _entries(self, context: Context) -> OrderedDict[Architecture, _Entry]:
        entries = self._contexts.setdefault(context, OrderedDict())
        self._contexts.move_to_end(context)
        return entries

    def _entry(self, entries: OrderedDict[Architecture, _Entry], architecture: Architecture, now: int) -> _Entry:
        entry = entries.get(architecture)
        if entry is None:
            entry = entries[architecture] = _Entry(now)
            self._size += 1
        elif entry.seen != now:
            entry.seen = now
            entries.move_to_end(architecture)
        return entry

    def _shrink(self) -> None:
        while self._size > self._max_architectures:
            context, entries = next(iter(self._contexts.items()))
            while entries and self._size > self._max_architectures:
                entries.popitem(last=False)
                self._size -= 1
            if not entries:
                del self._contexts[context]
