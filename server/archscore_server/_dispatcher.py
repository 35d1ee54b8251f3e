"""Runs batches: one task per slot of the pool takes them from the queue and hands out what the pool reports.

What a lost worker or a failed batch leaves behind is run again in halves until a culprit stands alone, so that one bad
architecture never fails another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from archscore_server._failures import Failures
from archscore_server._ledger import Ledger
from archscore_server._observer import Observer, RetryReason
from archscore_server._queue import BatchReason, Queue
from archscore_server._waiter import ArchitectureFailedError
from archscore_server._work import Place, Work
from archscore_server.engine import ArchitectureTooLargeError, Evaluation
from archscore_server.pool import Batch, BatchFailedError, BatchReport, Pool, WorkerLostError

#: Workers that an architecture may take with it, alone in its batch, before it is given up.
_MAX_LONE_DEATHS = 3

#: Seconds that a slot rests after a fault of the scheduler's own, so that one that stays does not block the event loop.
_REST_AFTER_FAULT = 0.1

#: What a client is told when an architecture is given up. The pool's own words are for the log.
_GAVE_UP: dict[RetryReason, str] = {
    "worker_lost": f"{_MAX_LONE_DEATHS} worker processes died while each evaluated nothing but this architecture",
    "batch_failed": "the evaluation of this architecture raised an error",
}

_logger = logging.getLogger(__name__)


class Dispatcher:
    """Turns what waits in the queue into batches, and batches into results."""

    def __init__(
        self,
        pool: Pool,
        queue: Queue,
        ledger: Ledger,
        failures: Failures,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        """Nothing runs until `start`.

        Args:
            pool: where batches run.
            queue: says what runs next.
            ledger: ends the waits for what has run.
            failures: remembers what is not tried again.
            observer: hears of batches.
            clock: seconds; it must advance as the event loop's own does.
        """
        self._pool = pool
        self._queue = queue
        self._ledger = ledger
        self._failures = failures
        self._observer = observer
        self._clock = clock
        self._slots: list[asyncio.Task[None]] = []
        self._end_of_hold: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to serve the slots of the pool, which has started."""
        self._slots = [asyncio.create_task(self._serve_slot(), name=f"slot-{n}") for n in range(self._pool.slots)]

    async def stop(self) -> None:
        """Leaves the slots; what runs is given up."""
        if self._end_of_hold:
            self._end_of_hold.cancel()
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)

    async def _serve_slot(self) -> None:
        while True:
            works: list[Work] = []
            try:
                works, reason = await self._next_batch()
                await self._run(works, reason)
            except Exception as fault:  # A slot outlives whatever is wrong with us, and what it held is answered.
                _logger.exception("the scheduler failed")
                self._recover(works, fault)
                await asyncio.sleep(_REST_AFTER_FAULT)

    def _recover(self, works: list[Work], fault: Exception) -> None:
        """Has what a fault of ours left without a result run again; fails it if that is what does not work."""
        try:
            self._queue.settle_up(works, 0.0)
            self._run_again(works, "batch_failed", fault, alone=len(works) == 1)
        except Exception:
            _logger.exception("the scheduler failed to run a batch again")
            for work in works:
                with _surviving():
                    self._ledger.settle(work, ArchitectureFailedError(_GAVE_UP["batch_failed"]))
        with _surviving():
            self._ledger.changed()

    async def _next_batch(self) -> tuple[list[Work], BatchReason]:
        while True:
            self._ledger.work_may_be_ready.clear()
            taken = self._queue.take(self._clock())
            if taken is None:
                self._wake_at_end_of_hold()
                await self._ledger.work_may_be_ready.wait()
                continue
            return taken

    def _wake_at_end_of_hold(self) -> None:
        if self._end_of_hold:
            self._end_of_hold.cancel()
        ready_at = self._queue.next_ready()
        if ready_at is not None:
            delay = ready_at - self._clock()
            self._end_of_hold = asyncio.get_running_loop().call_later(delay, self._ledger.work_may_be_ready.set)

    def _without_late(self, works: list[Work]) -> list[Work]:
        """Drops work of a batch that nobody would still wait for at its end, even if it took half as long as it does.

        That includes what is too late already, where the event loop was too busy for timers.
        """
        seconds = works[0].group.pace.at_best(0, self._clock())
        self._ledger.expire(
            [waiter for work in works for waiter in work.waiters if waiter.deadline and waiter.deadline.within(seconds)]
        )
        late = [work for work in works if not work.waiters]
        for work in late:
            self._queue.remove(work)
        if late:
            self._queue.settle_up(late, 0.0)
            self._observer.expired(len(late))
        return [work for work in works if work.waiters]

    async def _run(self, works: list[Work], reason: BatchReason) -> None:
        """Has the pool run a batch, hands out its results as they come, and arranges for what it leaves behind."""
        group = works[0].group
        works = self._without_late(works)
        self._ledger.changed()
        if not works:
            return
        batch = Batch(tuple(work.architecture for work in works), group.proxies, group.config)
        left = dict(enumerate(works))

        def on_results(results: Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]) -> None:
            for index, result in results:
                self._ledger.settle(left[index], result)
                del left[index]
            self._ledger.changed()

        started = self._clock()
        self._observer.batch_started(len(works), reason)
        if reason != "retry":
            for work in works:
                self._observer.waited(work.priority, started - work.arrived)
        report: BatchReport | None = None
        failure: RetryReason = "batch_failed"
        error: Exception | None = None
        try:
            report = await self._pool.run(batch, on_results)
        except WorkerLostError as lost:
            failure, error = "worker_lost", lost
        except BatchFailedError as failed:
            error = failed
        except Exception as unexpected:
            _logger.exception("the pool failed to run a batch")
            error = unexpected
        finally:
            seconds = self._clock() - started
            self._queue.settle_up(works, seconds)
            self._learn(works, seconds, left=len(left))
            self._observer.batch_ended(len(works), seconds, report)
        if error is not None or left:
            self._run_again(list(left.values()), failure, error, alone=len(works) == 1)
        self._ledger.changed()

    def _learn(self, works: list[Work], seconds: float, *, left: int) -> None:
        """Takes note of how long a batch took, of which some may be left without a result."""
        self._queue.rates.update(seconds, len(works) - left)
        if not left:  # What a hung worker took does not tell how long its batch takes.
            full = len(works) >= self._queue.max_batch
            works[0].group.pace.update(seconds / len(works), full=full, now=self._clock())

    def _run_again(self, works: list[Work], reason: RetryReason, error: Exception | None, *, alone: bool) -> None:
        """Arranges for what a batch left behind: halves of it, until a culprit stands alone.

        Args:
            works: what has no result.
            reason: what happened to the batch.
            error: what the pool says of it, for the log.
            alone: whether the batch consisted of one architecture: it is to blame.
        """
        for work in works:
            if not work.waiters and work.place is Place.RUNNING:
                self._queue.remove(work)
                self._observer.cancelled(1)
        works = [work for work in works if work.place is Place.RUNNING]
        # (as text: whoever keeps the record does not keep the frames of the error)
        _logger.warning("%s, with %d architectures to run again: %s", reason, len(works), str(error))
        if not works:
            return
        if alone:
            [work] = works
            work.lone_deaths += reason == "worker_lost"
            if reason == "batch_failed" or work.lone_deaths >= _MAX_LONE_DEATHS:
                _logger.error("gave up on %s: %s", work.architecture.format(), str(error))
                if reason == "worker_lost":
                    self._failures.add(work.item, _GAVE_UP[reason], self._clock())
                self._ledger.settle(work, ArchitectureFailedError(_GAVE_UP[reason]))
                return
        self._observer.retried(len(works), reason)
        middle = (len(works) + 1) // 2
        for half in (works[:middle], works[middle:]):
            if half:
                self._queue.retry(half)


@contextmanager
def _surviving() -> Iterator[None]:
    """Logs a fault, and goes on."""
    try:
        yield
    except Exception:
        _logger.exception("the scheduler failed to recover")
