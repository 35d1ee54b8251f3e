"""Scores the architectures of a request: what needs no worker or is stored at once, the rest through the scheduler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import closing
from enum import Enum, auto
from itertools import groupby
from operator import attrgetter, itemgetter

from google.rpc import code_pb2

from archscore_server import deadlines, errors
from archscore_server.config import Limits
from archscore_server.errors import RequestError
from archscore_server.in_flight import ClientFullError, InFlight, Share
from archscore_server.library import Library
from archscore_server.metrics import ArchitectureOutcome, Metrics
from archscore_server.pool import Pool
from archscore_server.preparation import Preparation
from archscore_server.progress import Pending, Progress
from archscore_server.recent import ByEncoding
from archscore_server.requests import Encodings, ScoringRequest
from archscore_server.results import Numbered, Result, stopped
from archscore_server.scheduler import Priority, QueueFullError, Room, Scheduler, StoppingError
from archscore_server.slices import Slices

#: Architectures of a request that are read together.
_PART = 256

_RESULT = itemgetter(1)
_OUTCOME = attrgetter("outcome", "exceptions")


class _State(Enum):
    STARTING = auto()
    OPEN = auto()
    CLOSED = auto()


class Scoring:
    """Scores the architectures of requests, between the time that the workers are warm and the end."""

    def __init__(
        self, scheduler: Scheduler, library: Library, metrics: Metrics, limits: Limits, pool: Pool, slices: Slices
    ) -> None:
        """Refuses requests until `open` is called."""
        self._scheduler = scheduler
        self._slices = slices
        self._metrics = metrics
        self._limits = limits
        self._state = _State.STARTING
        self._preparation = Preparation(library, metrics, limits, pool, slices)
        self._in_flight = InFlight(limits.max_in_flight_per_client)
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
        encodings: Encodings,
        field_of: Callable[[int], str],
        client: str,
        remaining: float | None,
        answers: ByEncoding[Result],
    ) -> AsyncGenerator[list[Numbered], None]:
        """Scores architectures and gives out results with their positions as they finish, each once.

        Closing this early gives up what is not finished.

        Args:
            request: what the architectures have in common.
            encodings: the architectures.
            field_of: path of the field that holds the i-th encoding, for errors.
            client: who asks; clients take turns.
            remaining: seconds until nobody waits any longer.
            answers: those that are known already, out of the store.

        Raises:
            RequestError: the queue is full, the client has as much in flight as it may, the server stops, or the
                deadline passes.
        """
        deadline = None if remaining is None else time.monotonic() + remaining
        progress = Progress(unanswered=len(encodings))
        self._active += 1
        self._idle.clear()
        share = self._in_flight.of(client)
        room: Room | None = None
        try:
            self._take(share, len(encodings))
            parts = [range(start, min(start + _PART, len(encodings))) for start in range(0, len(encodings), _PART)]
            parts.reverse()

            async def read() -> list[Pending]:
                """Answers what can be answered of the next part, and returns the rest."""
                await self._slices.turn(client)
                return await self._preparation.prepare(
                    progress, request, parts.pop(), encodings, field_of, client, answers
                )

            room = self._take_room(len(encodings), request.priority)
            if room is None:
                # There is room if enough of them are stored or in flight: to know that takes all of them.
                pending = [one for _ in list(parts) for one in await read()]
                await self._submit(progress, pending, request, client, deadline)
            while progress.unanswered:
                if self._scheduler.stopped:
                    progress.finish(*((index, stopped()) for part in parts for index in part))
                    parts.clear()
                # What would have to wait long is not read yet: it may be taken back before its turn.
                ahead = max(_PART, self._scheduler.ahead)
                while parts and room and progress.waiting < ahead and not progress.finished:
                    waiting = len(parts[-1])
                    pending = await read()
                    room.give_back(waiting - len(pending))
                    await self._submit(progress, pending, request, client, deadline, room)
                await progress.any_finished()
                await self._slices.turn(client)
                chunk = progress.next_chunk()
                # Whichever sees it first, the client or we, a deadline that passes ends the call in the same way.
                in_time = chunk
                if _is_due(deadline):
                    in_time = [one for one in chunk if one[1].outcome is not ArchitectureOutcome.EXPIRED]
                late = len(chunk) - len(in_time)
                progress.unanswered += late
                if in_time:
                    self._count(request, in_time)
                    yield in_time
                    share.give_back(len(in_time))
                _refuse_late(late)
        except RequestError as error:
            expired = error.status.code == code_pb2.DEADLINE_EXCEEDED
            outcome = ArchitectureOutcome.EXPIRED if expired else ArchitectureOutcome.REFUSED
            self._metrics.architectures_ended(request.space.name, request.proxies, outcome, progress.unanswered)
            progress.unanswered = 0
            raise
        finally:
            try:
                if room:
                    room.close()
                await self._leave(progress, client)
            finally:  # whatever happens meanwhile
                progress.leave()
                share.give_back(share.count)
                if progress.unanswered:
                    outcome = ArchitectureOutcome.EXPIRED if _is_due(deadline) else ArchitectureOutcome.CANCELLED
                    self._metrics.architectures_ended(request.space.name, request.proxies, outcome, progress.unanswered)
                self._active -= 1
                if not self._active:
                    self._idle.set()

    def _take(self, share: Share, architectures: int) -> None:
        try:
            share.take(architectures)
        except ClientFullError as error:
            retry_after = self._scheduler.seconds_for(error.excess)
            raise errors.client_full(retry_after, self._limits.max_in_flight_per_client) from error

    def _take_room(self, architectures: int, priority: Priority) -> Room | None:
        try:
            return self._scheduler.take_room(architectures, priority)
        except StoppingError as error:
            raise errors.draining() from error

    async def _submit(
        self,
        progress: Progress,
        pending: Sequence[Pending],
        request: ScoringRequest,
        client: str,
        deadline: float | None,
        room: Room | None = None,
    ) -> None:
        await self._slices.turn(client)
        items = [one.item for one in pending]
        waiters = self._scheduler.submitting(
            items, client=client, priority=request.priority, deadline=deadline, room=room
        )
        with closing(waiters):
            try:
                for one, waiter in zip(pending, waiters, strict=True):
                    progress.wait_for(one, waiter)
                    if self._slices.over:
                        await self._slices.turn(client)
            except QueueFullError as error:
                raise errors.queue_full(error.retry_after) from error
            except StoppingError as error:
                raise errors.draining() from error

    async def _leave(self, progress: Progress, client: str) -> None:
        """Gives up what has not finished, a little at a time."""
        for waiter in list(progress.waiters):
            if self._slices.over:
                await self._slices.turn(client)
            waiter.leave()

    def _count(self, request: ScoringRequest, chunk: list[Numbered]) -> None:
        # Most are alike, and so next to each other.
        for (outcome, exceptions), alike in groupby(map(_RESULT, chunk), key=_OUTCOME):
            count = len(list(alike))
            self._metrics.architectures_ended(request.space.name, request.proxies, outcome, count, exceptions)


def _is_due(deadline: float | None) -> bool:
    return deadline is not None and deadlines.is_due(deadline - time.monotonic())


def _refuse_late(count: int) -> None:
    if count:
        raise RequestError(errors.deadline_exceeded())
