"""What waits to be written."""

from __future__ import annotations

from collections.abc import Mapping

from archscore.spaces import Architecture
from archscore_server.engine import Score
from archscore_server.store._context import Context

Batch = dict[Context, dict[Architecture, dict[str, Score]]]


class Backlog:
    """Scores that are not in the file yet, a bounded number."""

    def __init__(self, max_scores: int) -> None:
        """Nothing yet."""
        self._max_scores = max_scores
        self._waiting: Batch = {}
        self._size = 0

    def __len__(self) -> int:
        """How many scores wait."""
        return self._size

    def get(self, context: Context, architecture: Architecture) -> Mapping[str, Score]:
        """What waits of an architecture."""
        return self._waiting.get(context, {}).get(architecture, {})

    def add(self, context: Context, architecture: Architecture, scores: Mapping[str, Score]) -> bool:
        """Takes scores in, if there is room; those of before give way."""
        if self._size + len(scores) > self._max_scores:
            return False
        waiting = self._waiting.setdefault(context, {}).setdefault(architecture, {})
        before = len(waiting)
        waiting.update(scores)
        self._size += len(waiting) - before
        return True

    def take(self, limit: int) -> Batch:
        """Takes out about so many scores, without parting those of one architecture."""
        batch: Batch = {}
        taken = 0
        while self._waiting and taken < limit:
            context, architectures = next(iter(self._waiting.items()))
            part = batch.setdefault(context, {})
            while architectures and taken < limit:
                architecture, scores = architectures.popitem()
                part[architecture] = scores
                taken += len(scores)
            if not architectures:
                del self._waiting[context]
        self._size -= taken
        return batch

    def restore(self, batch: Batch) -> int:
        """Puts back what could not be written; what came since is newer. Returns how many scores found no room."""
        dropped = 0
        for context, architectures in batch.items():
            for architecture, scores in architectures.items():
                older = {name: score for name, score in scores.items() if name not in self.get(context, architecture)}
                if not self.add(context, architecture, older):
                    dropped += len(older)
        return dropped

    def clear(self) -> int:
        """Gives everything up and says how many scores that were."""
        dropped = self._size
        self._waiting.clear()
        self._size = 0
        return dropped


def size_of(batch: Batch) -> int:
    """How many scores a batch holds."""
    return sum(len(scores) for architectures in batch.values() for scores in architectures.values())
