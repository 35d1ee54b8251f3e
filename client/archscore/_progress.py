"""A progress bar for lists that take a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TextIO

_FIRST_SHOWN_AFTER: Final = 1.0
_INTERVAL: Final = 0.1
_WIDTH: Final = 24
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Count, rate and time left, on one line of a terminal that is drawn over again.

    Nothing is shown in the first second, so that short lists have none of it.
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

    def advance(self) -> None:
        """Counts one more."""
        self._count += 1
        if not self._visible:
            return
        now = self._clock()
        if now >= self._due:
            self._stream.write(f"{_CLEAR}{self._line(now - self._started)}")
            self._stream.flush()
            self._due = now + _INTERVAL
            self._drawn = True

    def note(self, text: str) -> None:
        """Writes a line that stays."""
        self.clear()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Takes the bar away until it is drawn again."""
        if self._drawn:
            self._stream.write(_CLEAR)
            self._stream.flush()
            self._drawn = False

    def close(self) -> None:
        """Takes the bar away for good."""
        self.clear()
        self._visible = False

    def _line(self, elapsed: float) -> str:
        rate = self._count / elapsed
        if self._total is None:
            return f"{self._count:,}  {_rate(rate)}"
        done = min(self._count / self._total, 1.0) if self._total else 1.0
        bar = "#" * int(done * _WIDTH)
        left = _duration(max(self._total - self._count, 0) / rate)
        return f"[{bar:.<{_WIDTH}}] {self._count:,}/{self._total:,}  {_rate(rate)}  {left} left"


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _duration(seconds: float) -> str:
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"
