"""Scores the architectures of a request: what needs no worker at once, the rest through the scheduler."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial

from google.rpc import code_pb2, status_pb2

from archscore_server import deadlines, errors
from archscore_server.admission import admit, refuse_bytes
from archscore_server.config import Limits
from archscore_server.engine import Evaluation, Outcome, evaluate_without_device
from archscore_server.errors import RequestError
from archscore_server.metrics import ArchitectureOutcome, Metrics
from archscore_server.pool import Pool
from archscore_server.requests import ScoringRequest
from archscore_server.scheduler import (
    ArchitectureFailedError,
    DeadlineExceededError,
    Item,
    QueueFullError,
    Scheduler,
    StoppingError,
    Waiter,
)

#: Results that are given out together at most: a response of theirs stays far below gRPC's limit of 4 MiB.
_MAX_CHUNK = 256
#: Characters of encodings that are read before others get their turn on the event loop.
_TURN = 8_000


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one architecture.

    Attributes:
        index: its position in the request.
        answer: its evaluation, or why it has none.
        outcome: how it is counted.
    """

    index: int
    answer: Evaluation | status_pb2.Status
    outcome: ArchitectureOutcome


class _State(Enum):
    STARTING = auto()
    OPEN = auto()
    CLOSED = auto()


class Scoring:
    """Scores the architectures of requests, between the time that the workers are warm and the end."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics, limits: Limits, pool: Pool) -> None:
        """Refuses requests until `open` is called."""
        self._scheduler = scheduler
        self._metrics = metrics
        self._limits = limits
        self._pool = pool
        self._state = _State.STARTING
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self) -> None:
        """Takes requests from now on."""
        if self._state is _State.STARTING:
            self._state = _State.OPEN

    def close(self) -> None:
        """Takes no more requests; those in progress go on."""
        self._state = _State.CLOSED

    async def idle(self) -> None:
        """Returns when no request is in progress."""
        await self._idle.wait()

    def check_started(self) -> None:
        """Refuses a request that cannot be answered before the workers are warm.

        Raises:
            RequestError: UNAVAILABLE, with ErrorInfo STARTING.
        """
        if self._state is _State.STARTING:
            raise errors.starting()

    def check_open(self) -> None:
        """Refuses a request that comes too early or too late.

        Raises:
            RequestError: UNAVAILABLE, with ErrorInfo STARTING or DRAINING.
        """
        self.check_started()
        if self._state is _State.CLOSED:
            raise errors.draining()

    async def results(
        self,
        request: ScoringRequest,
        encodings: Sequence[str],
        field_of: Callable[[int], str],
        remaining: float | None,
    ) -> AsyncGenerator[list[Result], None]:
        """Scores architectures and gives out results as they finish, each once.

        Closing this early gives up what is not finished.

        Args:
            request: what the architectures have in common.
            encodings: the architectures.
            field_of: path of the field that holds the i-th encoding, for errors.
            remaining: seconds until nobody waits any longer.

        Raises:
            RequestError: the queue is full, or the server stops.
        """
        deadline = None if remaining is None else time.monotonic() + remaining
        progress = _Progress(unanswered=len(encodings))
        self._active += 1
        self._idle.clear()
        try:
            indices, items = await self._answer_without_worker(progress, request, encodings, field_of)
            progress.wait_for(indices, self._submit(items, request, deadline))
            while progress.unanswered:
                chunk = await progress.next_chunk()
                self._count(request, chunk)
                yield chunk
        except RequestError:
            self._metrics.architectures_ended(request.space.name, ArchitectureOutcome.REFUSED, progress.unanswered)
            progress.unanswered = 0
            raise
        finally:
            progress.leave()
            if progress.unanswered:
                due = deadline is not None and deadlines.is_due(deadline - time.monotonic())
                outcome = ArchitectureOutcome.EXPIRED if due else ArchitectureOutcome.CANCELLED
                self._metrics.architectures_ended(request.space.name, outcome, progress.unanswered)
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def _answer_without_worker(
        self,
        progress: _Progress,
        request: ScoringRequest,
        encodings: Sequence[str],
        field_of: Callable[[int], str],
    ) -> tuple[list[int], list[Item]]:
        """Answers what it can, and returns the rest with its positions."""
        indices, items = [], []
        proxies = tuple(sorted(request.proxies))
        read = 0
        for index, encoding in enumerate(encodings):
            if read >= _TURN:
                read = 0
                await asyncio.sleep(0)
            read += len(encoding)
            architecture = admit(request.space, encoding, field_of(index), request.config, self._limits)
            if isinstance(architecture, status_pb2.Status):
                progress.finish(_not_admitted(index, architecture))
            elif evaluation := evaluate_without_device(architecture, proxies, request.config):
                progress.finish(_evaluated(index, evaluation))
            elif refusal := refuse_bytes(architecture, proxies, request.config, self._limits, self._pool.info):
                progress.finish(_not_admitted(index, refusal))
            else:
                indices.append(index)
                items.append(Item(architecture, proxies, request.config))
        return indices, items

    def _submit(self, items: list[Item], request: ScoringRequest, deadline: float | None) -> list[Waiter]:
        try:
            return self._scheduler.submit(items, priority=request.priority, deadline=deadline) if items else []
        except QueueFullError as error:
            raise errors.queue_full(error.retry_after) from error
        except StoppingError as error:
            raise errors.draining() from error

    def _count(self, request: ScoringRequest, results: list[Result]) -> None:
        for result in results:
            self._metrics.architectures_ended(request.space.name, result.outcome)


@dataclass(slots=True)
class _Progress:
    """How far the architectures of a request are.

    Attributes:
        unanswered: how many results have not been given out.
    """

    unanswered: int
    _finished: deque[Result] = field(default_factory=deque)
    _any_finished: asyncio.Event = field(default_factory=asyncio.Event)
    _waiters: list[Waiter] = field(default_factory=list)

    def finish(self, result: Result) -> None:
        """Notes a result."""
        self._finished.append(result)
        self._any_finished.set()

    def wait_for(self, indices: Sequence[int], waiters: Sequence[Waiter]) -> None:
        """Expects the results of waiters, for the architectures at these positions."""
        self._waiters.extend(waiters)
        for index, waiter in zip(indices, waiters, strict=True):
            waiter.add_done_callback(partial(self._settled, index))

    async def next_chunk(self) -> list[Result]:
        """Waits until something has finished and gives it out."""
        await self._any_finished.wait()
        chunk = [self._finished.popleft() for _ in range(min(len(self._finished), _MAX_CHUNK))]
        if not self._finished:
            self._any_finished.clear()
        self.unanswered -= len(chunk)
        return chunk

    def leave(self) -> None:
        """Gives up what has not finished."""
        for waiter in self._waiters:
            waiter.leave()

    def _settled(self, index: int, waiter: Waiter) -> None:
        self.finish(_settled(index, waiter))


def _settled(index: int, waiter: Waiter) -> Result:
    outcome = waiter.outcome
    if isinstance(outcome, ArchitectureFailedError):
        return Result(index, errors.architecture_failed(str(outcome)), ArchitectureOutcome.FAILED)
    if isinstance(outcome, DeadlineExceededError):
        return Result(index, errors.deadline_exceeded(), ArchitectureOutcome.EXPIRED)
    if isinstance(outcome, StoppingError):
        return Result(index, errors.draining().status, ArchitectureOutcome.REFUSED)
    return _evaluated(index, outcome)


def _not_admitted(index: int, status: status_pb2.Status) -> Result:
    too_large = status.code == code_pb2.RESOURCE_EXHAUSTED
    return Result(index, status, ArchitectureOutcome.TOO_LARGE if too_large else ArchitectureOutcome.INVALID)


def _evaluated(index: int, evaluation: Evaluation) -> Result:
    outcomes = {score.outcome for score in evaluation.scores.values()}
    if Outcome.DEGENERATE in outcomes:
        return Result(index, evaluation, ArchitectureOutcome.DEGENERATE)
    if Outcome.NON_FINITE in outcomes:
        return Result(index, evaluation, ArchitectureOutcome.NON_FINITE)
    return Result(index, evaluation, ArchitectureOutcome.OK)
