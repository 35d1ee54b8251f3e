"""When the front end takes a worker for hung: after so many ticks of its own event loop.

Time is counted in ticks, each for no more than its interval however late it comes. A front end that was itself stopped,
starved or suspended has counted one tick when it goes on, and hears what its workers said meanwhile before it judges.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

#: Seconds that a start may take: it reads gigabytes of libraries, from a cold or remote disk.
START_TIMEOUT = 300.0

#: A start is silent for longer than a worker at work: loading a library keeps Python's threads waiting.
_START_SILENCE_FACTOR, _LEAST_START_SILENCE = 3.0, 10.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """When a worker is taken for hung.

    Attributes:
        heartbeat: seconds of silence.
        batch: seconds that a batch gets, besides what it may be expected to take, for each of its stacks.
    """

    heartbeat: float
    batch: float

    @property
    def start_silence(self) -> float:
        """Seconds of silence while a worker starts."""
        return max(_START_SILENCE_FACTOR * self.heartbeat, _LEAST_START_SILENCE)

    @property
    def tick(self) -> float:
        """Seconds between two ticks, and between two beats of a worker."""
        return min(1.0, self.heartbeat / 10, self.batch / 10)


class Patience:
    """Seconds that something may take, counted in ticks."""

    def __init__(self, seconds: float) -> None:
        """Begins to count."""
        self._left = seconds

    @property
    def over(self) -> bool:
        """Whether it took longer."""
        return self._left <= 0

    def restart(self, seconds: float) -> None:
        """Begins to count anew."""
        self._left = seconds

    def tick(self, seconds: float) -> None:
        """So much time has passed, or more."""
        self._left -= seconds


@contextlib.asynccontextmanager
async def watched(tick: float, is_overdue: Callable[[float], bool]) -> AsyncIterator[None]:
    """Interrupts its body with TimeoutError when it is overdue.

    Args:
        tick: seconds between two looks.
        is_overdue: called with `tick` at each look; whether to interrupt.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as interruption:
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if is_overdue(tick):
                interruption.reschedule(loop.time())
            else:
                timer = loop.call_later(tick, look)

        timer = loop.call_later(tick, look)
        try:
            yield
        finally:
            timer.cancel()
