"""The log of refused calls, which no flood of them can fill."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from archscore_server import errors

_logger = logging.getLogger(__name__)

#: Seconds between two lines at least.
_INTERVAL = 1.0


class Refusals:
    """Logs one refused call a second at most, and how many there were that it did not log."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Takes the clock, in seconds."""
        self._now = now
        self._next = now()
        self._suppressed = 0

    def refused(self, peer: str, reason: str) -> None:
        """A call was refused.

        Args:
            peer: where it came from.
            reason: what the client was told; nothing that it sent.
        """
        now = self._now()
        if now < self._next:
            self._suppressed += 1
            return
        others = f" ({self._suppressed} more since the last such line)" if self._suppressed else ""
        _logger.warning("refused a call from %s: %s%s", errors.quote(peer), reason, others)
        self._next = now + _INTERVAL
        self._suppressed = 0
