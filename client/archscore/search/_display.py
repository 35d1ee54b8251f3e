"""What is shown of a search while it runs: best so far, rate, time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self, TextIO

from archscore._progress import format_duration, format_rate
from archscore.search._history import History
from archscore.search._record import Record

_INTERVAL: Final = 10.0
"""Seconds between plain lines."""
_REFRESH: Final = 0.2
"""Seconds between looks at the best on a terminal."""


class Display(Protocol):
    """Shows a search. A context manager."""

    def __enter__(self) -> Self:
        """Starts."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the terminal as it was."""
        ...

    def update(self, record: Record, history: History) -> None:
        """One more evaluation."""
        ...

    def note(self, text: str) -> None:
        """A line that stays."""
        ...


def display_on(stream: TextIO) -> Display:
    """A display that suits a stream: one that is drawn over on a terminal, with rich; plain lines elsewhere."""
    if stream.isatty():
        try:
            return RichDisplay(stream)
        except ImportError:
            pass
    return PlainDisplay(stream)


class Pace:
    """Rate and time left, not counting what was there before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Starts when the first evaluation comes."""
        self._clock = clock
        self._started = clock()
        self._count = 0
        self._stage = -1

    def advance(self, history: History) -> None:
        """Counts one more."""
        if history.stage != self._stage:  # A stage has a pace of its own.
            self._stage, self._count, self._started = history.stage, 0, self._clock()
        self._count += 1

    def __str__(self) -> str:
        """The rate in words."""
        elapsed = self._clock() - self._started
        return format_rate(self._count / elapsed) if elapsed > 0 else "-"

    def left(self, history: History) -> str:
        """The time that the rest of the stage will take, in words."""
        todo = history.stage_total - (len(history.records) - history.stage_started)
        elapsed = self._clock() - self._started
        return f"{format_duration(todo * elapsed / self._count)} left" if self._count and elapsed > 0 else ""


def count_of(history: History) -> str:
    """How many evaluations of how many, in words."""
    stages = len(history.objectives)
    stage = f"stage {history.stage + 1}/{stages}: " if stages > 1 else ""
    return f"{stage}{len(history.records) - history.stage_started:,}/{history.stage_total:,}"


def best_of(history: History) -> str:
    """The best so far, in words."""
    best = history.best
    if best is None:
        return "no score yet"
    scores = ", ".join(f"{proxy} {best.scores[proxy]:.6g}" for proxy in history.objective.proxies)
    rank_sum = f"rank sum {history.fitness_of_best():.4f}, " if history.objective.is_rank_sum else ""
    return f"best {rank_sum}{scores} with {best.measures.parameters:,} parameters (evaluation {best.index + 1:,})"


class PlainDisplay:
    """A line every 10 seconds, and one at the end of each stage."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Shows nothing yet.

        Args:
            stream: where to write.
            clock: tells seconds.
        """
        self._stream = stream
        self._clock = clock
        self._pace = Pace(clock)
        self._due = clock() + _INTERVAL

    def __enter__(self) -> Self:
        """The display itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Has nothing to clear."""

    def update(self, record: Record, history: History) -> None:  # noqa: ARG002 -- of every display
        """One more evaluation."""
        self._pace.advance(history)
        finished = len(history.records) - history.stage_started == history.stage_total
        if not finished and self._clock() < self._due:
            return
        self._due = self._clock() + _INTERVAL
        parts = (count_of(history), str(self._pace), "" if finished else self._pace.left(history), best_of(history))
        self.note("  ".join(filter(None, parts)))

    def note(self, text: str) -> None:
        """A line that stays."""
        self._stream.write(f"{text}\n")
        self._stream.flush()


class RichDisplay:
    """A bar with rate and time left, and the best below it, on a terminal."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Shows nothing yet.

        Args:
            stream: the terminal.
            clock: tells seconds.

        Raises:
            ImportError: rich is not installed.
        """
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.text import Text

        self._console = Console(file=stream, stderr=False)
        # Not parsed as markup: it may hold whatever a server says.
        column = TextColumn("{task.fields[count]}  {task.fields[pace]}  {task.fields[left]}", markup=False)
        self._bar = Progress(BarColumn(), column, console=self._console)
        self._task = self._bar.add_task("", total=None, count="", pace="", left="")
        self._best = Text("", no_wrap=True, overflow="ellipsis")
        self._encoding = Text("", style="dim", no_wrap=True, overflow="ellipsis")
        group = Group(self._bar, self._best, self._encoding)
        self._live: Any = Live(group, console=self._console, transient=True, refresh_per_second=5)
        self._clock = clock
        self._pace = Pace(clock)
        self._due = -math.inf

    def __enter__(self) -> Self:
        """Starts to draw."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Takes everything away that was drawn."""
        self._live.stop()

    def update(self, record: Record, history: History) -> None:  # noqa: ARG002 -- of every display
        """One more evaluation."""
        self._pace.advance(history)
        if self._clock() < self._due:
            return
        self._due = self._clock() + _REFRESH
        best = history.best
        self._best.plain = best_of(history)
        self._encoding.plain = best.architecture if best is not None else ""
        self._bar.update(
            self._task,
            total=history.stage_total,
            completed=len(history.records) - history.stage_started,
            count=count_of(history),
            pace=str(self._pace),
            left=self._pace.left(history),
        )

    def note(self, text: str) -> None:
        """A line that stays, above what is drawn over."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
