"""A progress bar for lists that take a while."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

_FIRST_SHOWN_AFTER: Final = 1.0
_INTERVAL: Final = 0.1
_WIDTH: Final = 24
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Count, rate and time left, on one line of a terminal that is drawn over again.

    Nothing is shown in the first second, so that short lists have none of it. Threads may write notes.
    """

    def __init__(
        self, stream: TextIO, *, total: int | None, visible: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts at zero.

        Args:
            stream: where to draw.
            total: how much there is to do, if that is known.
            visible: whether to draw at all.
            clock: tells seconds.
        """
        self._stream = stream
        self._total = total
        self._visible = visible
        self._clock = clock
        self._count = 0
        self._started = clock()
        self._due = self._started + _FIRST_SHOWN_AFTER
        self._drawn = False
        self._lock = threading.RLock()

    def advance(self) -> None:
        """Counts one more."""
        with self._lock:
            self._count += 1
            if self._visible and self._clock() >= self._due:
                self._draw()

    def note(self, text: str) -> None:
        """Writes a line that stays."""
        with self._lock:
            drawn = self._drawn
            self.clear()
            self._stream.write(f"{text}\n")
            self._stream.flush()
            if drawn:
                self._draw()

    def clear(self) -> None:
        """Takes the bar away until it is drawn again."""
        with self._lock:
            if self._drawn:
                self._stream.write(_CLEAR)
                self._stream.flush()
                self._drawn = False

    def close(self) -> None:
        """Takes the bar away for good."""
        self.clear()
        self._visible = False

    def _draw(self) -> None:
        now = self._clock()
        # A line that wraps cannot be drawn over; some terminals wrap one that fills them.
        line = self._line(now - self._started)[: self._room()]
        self._stream.write(f"{_CLEAR}{line}")
        self._stream.flush()
        self._due = now + _INTERVAL
        self._drawn = True

    def _room(self) -> int | None:
        """Characters that fit in a line of the terminal; None if that is not known."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            return None
        return columns - 1 if columns > 0 else None

    def _line(self, elapsed: float) -> str:
        rate = self._count / elapsed
        if self._total is None:
            return f"{self._count:,}  {format_rate(rate)}"
        done = min(self._count / self._total, 1.0) if self._total else 1.0
        bar = "#" * int(done * _WIDTH)
        left = format_duration(max(self._total - self._count, 0) / rate)
        return f"[{bar:.<{_WIDTH}}] {self._count:,}/{self._total:,}  {format_rate(rate)}  {left} left"


def format_rate(per_second: float) -> str:
    """Things per second, or seconds per thing where they are slow."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def format_duration(seconds: float) -> str:
    """A duration as M:SS or H:MM:SS."""
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"
