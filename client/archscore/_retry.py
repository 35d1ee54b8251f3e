"""When to try again, and when to give up. Decides; never sleeps."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Final

from archscore.errors import ArchscoreError, DeadlineExceededError, QueueFullError, UnavailableError

MAX_SECONDS: Final = 365 * 24 * 3600
"""Longest timeout: clocks and deadlines have their limits."""

logger = logging.getLogger("archscore")

_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 2.0
"""A server that is back is asked again within a few seconds."""
_LONGEST_DELAY_WHEN_FULL: Final = 10.0
_FAILURES_WORTH_A_WARNING: Final = 4


class Contact:
    """What a client knows of its server: whether it was ever heard of, and whether it is known to be out of reach.

    A server that never answered is probably not there, so it is given up soon; one that did answer is probably being
    restarted, so it is worth waiting for.

    Attributes:
        connect_timeout: seconds to wait for a server that never answered.
        reached: whether it answered, be it with an error of its own.
        lost: whether nothing came back when it was last asked.
    """

    def __init__(self, connect_timeout: float) -> None:
        """Starts without having heard of the server."""
        self.connect_timeout = connect_timeout
        self.reached = False
        self.lost = False
        self._warned = False
        self._lock = threading.Lock()

    def answered(self) -> None:
        """Notes an answer: an outage, if there was one, is over."""
        with self._lock:
            self.reached = True
            self.lost = False
            self._warned = False

    def warn_once(self) -> bool:
        """Whether to warn of the outage: that nobody did yet. All work in flight suffers from the same one."""
        with self._lock:
            warned, self._warned = self._warned, True
            return not warned


class Retrier:
    """The deadline of one piece of work, and the pauses between the attempts at it.

    Only UNAVAILABLE and QUEUE_FULL are worth another attempt. Pauses double from one failure to the next and are
    jittered; where the server says how long to wait, they are never shorter than that, and where it says not to try
    again, that is done.
    """

    def __init__(self, contact: Contact, timeout: float) -> None:
        """Starts the clock.

        Args:
            contact: of the client.
            timeout: seconds for all attempts together.
        """
        self._contact = contact
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._failures = 0
        self._first_failure = 0.0

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._deadline

    @property
    def reached(self) -> bool:
        """Whether the server was ever heard of."""
        return self._contact.reached

    def remaining(self) -> float:
        """Seconds left for the next attempt; a little above 0 when there are none, so that it fails as expired."""
        return max(self._deadline - time.monotonic(), 1e-3)

    def progressed(self) -> None:
        """Notes an answer: the next failure is the first of its kind again."""
        self._contact.answered()
        self._failures = 0

    def heard(self, error: ArchscoreError) -> None:
        """Notes an error that is an answer, or may be: whatever it is, only a deadline can expire without a server."""
        if error.status is not None or not isinstance(error, DeadlineExceededError):
            self._contact.answered()

    def pause(self, error: ArchscoreError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            ArchscoreError: the error itself: another attempt would not help, or would come too late.
        """
        if not isinstance(error, (UnavailableError, QueueFullError)):
            self.heard(error)
            raise error
        seconds = self._next_pause(error)
        give_up = self._deadline
        if not self._contact.reached:
            give_up = min(give_up, self._first_failure + self._contact.connect_timeout)
        if time.monotonic() + seconds >= give_up:
            raise error
        return seconds

    def outlast(self, error: ArchscoreError) -> float:
        """As `pause`, but the time starts anew with an outage: what was under way is lost with the server.

        Raises:
            ArchscoreError: as `pause`; the whole timeout went by since the outage began.
        """
        if not self._failures and self._contact.reached:
            self._deadline = time.monotonic() + self._timeout
        return self.pause(error)

    def postpone(self, error: ArchscoreError) -> float:
        """Seconds to wait before the next attempt, which gets the whole timeout again.

        Raises:
            ArchscoreError: the error itself: the server asks not to try again.
        """
        seconds = self._next_pause(error)
        self._deadline = time.monotonic() + seconds + self._timeout
        return seconds

    def _next_pause(self, error: ArchscoreError) -> float:
        if error.retry_after is not None and error.retry_after > MAX_SECONDS:
            raise error
        self._contact.reached |= bool(error.reason)  # Only a server of ours gives reasons.
        self._contact.lost = isinstance(error, UnavailableError) and error.status is None
        if not self._failures:
            self._first_failure = time.monotonic()
        longest = _LONGEST_DELAY_WHEN_FULL if isinstance(error, QueueFullError) else _LONGEST_DELAY
        ceiling = min(_FIRST_DELAY * 2.0**self._failures, longest)
        self._failures = min(self._failures + 1, 64)
        seconds = ceiling * random.uniform(0.5, 1.0)  # noqa: S311 -- jitter
        if error.retry_after is not None:
            seconds += error.retry_after
        worth_it = self._failures == _FAILURES_WORTH_A_WARNING and self._contact.warn_once()
        logger.log(logging.WARNING if worth_it else logging.INFO, "trying again in %.1f s: %s", seconds, error)
        return seconds
