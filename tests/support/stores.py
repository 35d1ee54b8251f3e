"""What tests of the score store share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from archscore.spaces import nasbench201
from archscore_server.engine import EvaluationConfig, Outcome, Score
from archscore_server.store import Context

CELLS = list(nasbench201.cells())
CONTEXT = Context(EvaluationConfig(), "ab" * 32, "cpu", "2.13.0+cpu")
#: Names of real proxies: only scores of registered ones are written.
PROXIES = ("tcet", "snip", "synflow")


def ok(value: float, standard_error: float | None = None) -> Score:
    """A score that has a value."""
    return Score(Outcome.OK, value, standard_error)


def scores_of(index: int, proxies: Sequence[str] = PROXIES) -> dict[str, Score]:
    """Scores that tell which cell they are of."""
    return {proxy: ok(index + number / 8) for number, proxy in enumerate(proxies)}


class Clock:
    """Unix seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Counts:
    """An observer that adds up."""

    def __init__(self) -> None:
        self.hits = self.misses = self.written = self.failures = self.dropped = 0
        self.entries: int | None = None
        self.states: list[bool] = []

    def store_hits(self, count: int) -> None:
        self.hits += count

    def store_misses(self, count: int) -> None:
        self.misses += count

    def store_written(self, count: int) -> None:
        self.written += count

    def store_write_failed(self) -> None:
        self.failures += 1

    def store_dropped(self, count: int) -> None:
        self.dropped += count

    def store_entries_changed(self, entries: int) -> None:
        self.entries = entries

    def store_state_changed(self, up: bool) -> None:
        self.states.append(up)


def files(directory: Path | str) -> list[str]:
    """Names of what is in a directory."""
    return sorted(file.name for file in Path(directory).iterdir())


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something holds; a guard ends what would hang."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
