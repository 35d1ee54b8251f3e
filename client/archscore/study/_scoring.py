"""Scores the cells of a study that are not scored yet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

from archscore._progress import Progress, format_duration, format_rate
from archscore.spaces.nasbench201 import Cell
from archscore.study._cells import random_cells
from archscore.study._file import ScoreFile
from archscore.study._rows import Failure, Row, Setting

_EVERY_SECONDS: Final = 60.0


class Source(Protocol):
    """Where scores come from."""

    @property
    def setting(self) -> Setting:
        """What they depend on."""
        ...

    @property
    def run(self) -> Mapping[str, Any]:
        """What they are computed with, for the record."""
        ...

    def score(self, cells: Sequence[Cell]) -> Generator[Row | Failure, None, None]:
        """Scores cells; they come as they are ready."""
        ...


def complete(source: Source, path: Path, count: int, stream: TextIO) -> int:
    """Scores what is missing of the first cells of a study; each is kept as soon as it is scored.

    Args:
        source: where scores come from.
        path: the file that keeps them.
        count: how many cells the study is about.
        stream: where to tell how far it is.

    Returns:
        How many cells could not be scored.

    Raises:
        UsageError: the file is of another study.
        ArchscoreError: no more can be scored.
    """
    failures = 0
    with ScoreFile.open_for(path, source.setting, source.run) as file:
        missing = [cell for cell in random_cells(count, source.setting.seed) if cell.index not in file.rows]
        _say(stream, f"{count - len(missing):,} of {count:,} cells are scored already")
        if not missing:
            return 0
        with _reporter(stream, len(missing)) as reporter, contextlib.closing(source.score(missing)) as results:
            for result in results:
                if isinstance(result, Row):
                    file.add(result)
                else:
                    failures += 1
                    reporter.note(f"archscore: index:{result.index} could not be scored: {result.reason}")
                reporter.advance()
    return failures


class _Reporter(Protocol):
    def advance(self) -> None: ...

    def note(self, text: str) -> None: ...


class Lines:
    """Count, rate and time left, as a line every minute: for logs."""

    def __init__(self, stream: TextIO, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts at zero."""
        self._stream = stream
        self._total = total
        self._clock = clock
        self._count = 0
        self._started = clock()
        self._due = self._started + _EVERY_SECONDS

    def advance(self) -> None:
        """Counts one more."""
        self._count += 1
        now = self._clock()
        if now >= self._due or self._count == self._total:
            per_second = self._count / max(now - self._started, 1e-9)
            left = format_duration((self._total - self._count) / per_second)
            self.note(f"archscore: {self._count:,} of {self._total:,}, {format_rate(per_second)}, {left} left")
            self._due = now + _EVERY_SECONDS

    def note(self, text: str) -> None:
        """Writes a line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()


@contextlib.contextmanager
def _reporter(stream: TextIO, total: int) -> Iterator[_Reporter]:
    if not stream.isatty():
        yield Lines(stream, total)
        return
    progress = Progress(stream, total=total, visible=True)
    try:
        yield progress
    finally:
        progress.close()


def _say(stream: TextIO, text: str) -> None:
    stream.write(f"archscore: {text}\n")
    stream.flush()
