"""How a caller waits for an evaluation, and what it may get instead of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from archscore_server import deadlines
from archscore_server.engine import ArchitectureTooLargeError, Evaluation

if TYPE_CHECKING:
    from archscore_server._work import Work

#: Waiters that give up before others get their turn on the event loop.
_AT_ONCE = 32


class QueueFullError(Exception):
    """The queue cannot take the submission.

    Attributes:
        retry_after: seconds after which there should be room, from the measured service rate.
    """

    def __init__(self, retry_after: float) -> None:
        """Says when to come back."""
        super().__init__(f"the queue is full: try again in {retry_after:.1f} s")
        self.retry_after = retry_after


class StoppingError(Exception):
    """The scheduler drains or has stopped: it takes nothing new, and evaluates nothing more once it has stopped."""


class ArchitectureFailedError(Exception):
    """This architecture cannot be evaluated. The message is fit for a client."""


class DeadlineExceededError(Exception):
    """The waiter's deadline passed before there was a result."""


#: What a waiter ends with.
Outcome = Evaluation | ArchitectureFailedError | ArchitectureTooLargeError | StoppingError | DeadlineExceededError


class Deadline:
    """When the waiters of one submission give up: one timer for all, which ends with the last of them."""

    def __init__(self, at: float, clock: Callable[[], float], expire: Callable[[list[Waiter]], None]) -> None:
        """Starts the timer.

        Args:
            at: the time on `clock`.
            clock: seconds, advancing as the event loop's clock does.
            expire: called with the waiters that are left when the time has come.
        """
        self._at = at
        self._clock = clock
        self._expire = expire
        self._waiters: dict[Waiter, None] = {}
        self._timer: asyncio.Handle = self._start()

    @property
    def passed(self) -> bool:
        """Whether the time has come."""
        return self.within(0.0)

    @property
    def due(self) -> bool:
        """Whether who leaves now leaves because of it."""
        return deadlines.is_due(self._at - self._clock())

    def within(self, seconds: float) -> bool:
        """Whether it is no more than so many seconds away, or has passed."""
        return self._clock() + seconds >= self._at

    def add(self, waiter: Waiter) -> None:
        """Has a waiter expire with this deadline."""
        if self._timer.cancelled():  # All that waited before were done.
            self._timer = self._start()
        self._waiters[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """Forgets a waiter that is done or has left."""
        self._waiters.pop(waiter, None)
        self.cancel_if_idle()

    def cancel_if_idle(self) -> None:
        """Stops the timer if nobody waits."""
        if not self._waiters:
            self._timer.cancel()

    def _start(self) -> asyncio.Handle:
        return asyncio.get_running_loop().call_later(self._at - self._clock(), self._fire)

    def _fire(self) -> None:
        if self.passed:
            self._expire(list(islice(self._waiters, _AT_ONCE)))
            if self._waiters:
                self._timer = asyncio.get_running_loop().call_soon(self._fire)
        else:  # The loop rounds to the resolution of its clock.
            self._timer = self._start()


class Waiter:
    """One caller's interest in one evaluation; several waiters may share the evaluation."""

    __slots__ = ("_future", "_release", "client", "deadline", "work")

    def __init__(
        self, work: Work | None, client: str, deadline: Deadline | None, release: Callable[[Waiter], None]
    ) -> None:
        """Made by the scheduler alone.

        Args:
            work: the evaluation waited for; None where there will be none.
            client: who waits.
            deadline: when the interest ends.
            release: called once if the waiter leaves before it is done.
        """
        self.work = work
        self.client = client
        self.deadline = deadline
        self._release = release
        # Errors are set as results, never as exceptions: asyncio would complain of each that nobody looks at.
        self._future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if deadline:
            deadline.add(self)

    @property
    def done(self) -> bool:
        """Whether there is an outcome. A waiter that left never has one."""
        return self._future.done() and not self._future.cancelled()

    @property
    def outcome(self) -> Outcome:
        """The evaluation, or the error that `result` raises. For done callbacks; only when `done`."""
        return self._future.result()

    async def result(self) -> Evaluation:
        """Waits for the evaluation. Cancelling this does not end the interest: `leave` does.

        Raises:
            ArchitectureFailedError: the architecture cannot be evaluated.
            ArchitectureTooLargeError: there is no memory to evaluate it.
            StoppingError: the scheduler stopped first.
            DeadlineExceededError: the waiter's deadline passed first.
            asyncio.CancelledError: the waiter has left.
        """
        outcome = await asyncio.shield(self._future)
        if isinstance(outcome, Exception):
            # Waiters share the error: without this its traceback would grow with each of them.
            raise outcome.with_traceback(None)
        return outcome

    def add_done_callback(self, callback: Callable[[Waiter], None]) -> None:
        """Has the event loop call `callback(waiter)` once there is an outcome; never if the waiter leaves first."""
        self._future.add_done_callback(lambda future: None if future.cancelled() else callback(self))

    def leave(self) -> None:
        """Gives up the interest, if there is no outcome yet. Idempotent.

        When nobody else waits for the evaluation either, it is taken from the queue at once; if it is running, its
        result is dropped.
        """
        if self._future.cancel():
            self._end()
            self._release(self)

    def settle(self, outcome: Outcome) -> None:
        """Ends the wait. The scheduler's to call, once."""
        self._future.set_result(outcome)
        self._end()

    def _end(self) -> None:
        if self.deadline:
            self.deadline.discard(self)
