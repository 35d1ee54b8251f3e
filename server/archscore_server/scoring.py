"""Scores the architectures of a request: what needs no worker or is stored at once, the rest through the scheduler."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from itertools import groupby
from operator import attrgetter, itemgetter

from google.rpc import code_pb2, status_pb2

from archscore.spaces import Architecture
from archscore_server import deadlines, errors
from archscore_server.admission import admit
from archscore_server.budget import Budget
from archscore_server.config import Limits
from archscore_server.engine import ArchitectureTooLargeError, Outcome, Score, evaluate_without_device
from archscore_server.engine import proxies as registry
from archscore_server.engine.static import static_scores
from archscore_server.errors import RequestError
from archscore_server.in_flight import ClientFullError, InFlight, Share
from archscore_server.library import Library
from archscore_server.metrics import ArchitectureOutcome, Metrics, ProxyOutcomes
from archscore_server.pool import Pool
from archscore_server.recent import ByEncoding, Recent
from archscore_server.requests import Encodings, ScoringRequest
from archscore_server.results import Numbered, Result
from archscore_server.scheduler import (
    ArchitectureFailedError,
    DeadlineExceededError,
    Item,
    Priority,
    QueueFullError,
    Room,
    Scheduler,
    StoppingError,
    Waiter,
)
from archscore_server.slices import Slices

#: Results that are given out together at most: a response of theirs stays far below gRPC's limit of 4 MiB.
_MAX_CHUNK = 256
#: Architectures of a request that are read together.
_PART = 256
#: Known answers that are looked up between two looks at the clock: each takes no longer than a look.
_STRIDE = 32

_RESULT = itemgetter(1)
_OUTCOME = attrgetter("outcome", "exceptions")


@dataclass(frozen=True, slots=True)
class _Pending:
    """An architecture that waits for a worker.

    Attributes:
        index: its position in the request.
        item: what is to be evaluated.
        known: scores that need no worker.
        stored: the proxies of those that came from the store.
    """

    index: int
    item: Item
    known: Mapping[str, Score]
    stored: Set[str]


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
        self._library = library
        self._admitted: Recent[Architecture] = Recent()
        self._metrics = metrics
        self._limits = limits
        self._state = _State.STARTING
        self._budget = Budget(limits, pool)
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
        progress = _Progress(unanswered=len(encodings))
        self._active += 1
        self._idle.clear()
        share = self._in_flight.of(client)
        room: Room | None = None
        try:
            self._take(share, len(encodings))
            parts = [range(start, min(start + _PART, len(encodings))) for start in range(0, len(encodings), _PART)]
            parts.reverse()

            async def read() -> list[_Pending]:
                """Answers what can be answered of the next part, and returns the rest."""
                await self._slices.turn(client)
                return await self._prepare(progress, request, parts.pop(), encodings, field_of, client, answers)

            room = self._take_room(len(encodings), request.priority)
            if room is None:
                # There is room if enough of them are stored or in flight: to know that takes all of them.
                pending = [one for _ in list(parts) for one in await read()]
                await self._submit(progress, pending, request, client, deadline)
            while progress.unanswered:
                if self._scheduler.stopped:
                    progress.finish(*((index, _stopped()) for part in parts for index in part))
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

    async def _prepare(
        self,
        progress: _Progress,
        request: ScoringRequest,
        part: range,
        encodings: Encodings,
        field_of: Callable[[int], str],
        client: str,
        answers: ByEncoding[Result],
    ) -> list[_Pending]:
        """Answers what needs no worker of a part of a request; returns the rest."""
        left = await self._repeat(progress, request, part, encodings.part(part), client, answers)
        candidates = await self._read(progress, request, left, client, field_of)
        return await self._look_up(progress, request, client, candidates)

    async def _repeat(
        self,
        progress: _Progress,
        request: ScoringRequest,
        part: range,
        encodings: Sequence[str],
        client: str,
        answers: ByEncoding[Result],
    ) -> list[tuple[int, str]]:
        """Gives the answers that are known; returns the other encodings with their positions."""
        left: list[tuple[int, str]] = []
        repeated: list[Numbered] = []
        for start in range(0, len(encodings), _STRIDE):
            if self._slices.over:
                await self._slices.turn(client)
            some = encodings[start : start + _STRIDE]
            for index, encoding, result in zip(part[start:], some, map(answers.get, some), strict=False):
                if result is None:
                    left.append((index, encoding))
                else:
                    repeated.append((index, result))
        if repeated:
            progress.finish(*repeated)
            self._metrics.store_hits(len(repeated) * len(_of_device(request)))
        return left

    async def _read(
        self,
        progress: _Progress,
        request: ScoringRequest,
        encodings: Sequence[tuple[int, str]],
        client: str,
        field_of: Callable[[int], str],
    ) -> dict[int, Architecture]:
        """Reads encodings; answers those that are not let in or need no device, and returns the rest by position."""
        config = request.config
        # All that admission depends on.
        admitted = self._admitted.under((request.space.name, config.network, config.resolution, config.num_classes))
        candidates: dict[int, Architecture] = {}
        for index, encoding in encodings:
            if self._slices.over:
                await self._slices.turn(client)
            known = admitted.get(encoding)
            if known is not None:
                candidates[index] = known
                continue
            architecture = admit(request.space, encoding, field_of(index), request.config, self._limits)
            if isinstance(architecture, status_pb2.Status):
                progress.finish((index, _not_admitted(architecture)))
            elif evaluation := evaluate_without_device(architecture, request.proxies, request.config):
                progress.finish((index, _evaluated(evaluation.scores)))
            else:
                candidates[index] = architecture
                admitted.add(encoding, architecture)
        return candidates

    async def _look_up(
        self, progress: _Progress, request: ScoringRequest, client: str, candidates: Mapping[int, Architecture]
    ) -> list[_Pending]:
        """Answers what the store has, and what takes more work or memory than it may; returns the rest."""
        if not candidates:
            return []
        static = [name for name in request.proxies if registry.get(name).static]
        wanted = tuple(sorted(_of_device(request)))
        pending = []
        await self._slices.turn(client)
        found = await self._library.get(request.config, list(candidates.values()), wanted)
        await self._slices.turn(client)
        for (index, architecture), stored in zip(candidates.items(), found, strict=True):
            if self._slices.over:
                await self._slices.turn(client)
            known = {**static_scores(architecture, static, request.config), **stored} if static else stored
            if len(stored) == len(wanted):
                progress.finish((index, _evaluated(known, stored.keys(), lasting=True)))
                continue
            missing = tuple(name for name in wanted if name not in stored) if stored else wanted
            pending.append(_Pending(index, Item(architecture, missing, request.config), known, stored.keys()))
        return await self._within_budget(progress, request, pending)

    async def _within_budget(
        self, progress: _Progress, request: ScoringRequest, pending: list[_Pending]
    ) -> list[_Pending]:
        """Answers what takes more work or memory than it may; returns the rest."""
        evaluations = [(one.item.architecture, one.item.proxies) for one in pending]
        refusals = await self._budget.refusals(evaluations, request.config)
        for one, refusal in zip(pending, refusals, strict=True):
            if refusal:
                progress.finish((one.index, _not_admitted(refusal)))
        return [one for one, refusal in zip(pending, refusals, strict=True) if refusal is None]

    async def _submit(
        self,
        progress: _Progress,
        pending: Sequence[_Pending],
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

    async def _leave(self, progress: _Progress, client: str) -> None:
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


@dataclass(slots=True)
class _Progress:
    """How far the architectures of a request are.

    Attributes:
        unanswered: how many results have not been given out.
        waiters: those for architectures that wait.
    """

    unanswered: int
    waiters: dict[Waiter, None] = field(default_factory=dict)
    _finished: deque[Numbered] = field(default_factory=deque)
    _any_finished: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def waiting(self) -> int:
        """How many architectures wait for a worker, or have one."""
        return len(self.waiters)

    @property
    def finished(self) -> bool:
        """Whether there is something to be given out."""
        return bool(self._finished)

    def finish(self, *results: Numbered) -> None:
        """Notes results."""
        self._finished.extend(results)
        if results:
            self._any_finished.set()

    def wait_for(self, pending: _Pending, waiter: Waiter) -> None:
        """Expects the result of an architecture that waits."""
        self.waiters[waiter] = None
        waiter.add_done_callback(partial(self._settled, pending))

    async def any_finished(self) -> None:
        """Returns when there is something to be given out."""
        await self._any_finished.wait()

    def next_chunk(self) -> list[Numbered]:
        """Gives out what has finished, or a part of it."""
        if len(self._finished) > _MAX_CHUNK:
            chunk = [self._finished.popleft() for _ in range(_MAX_CHUNK)]
        else:
            chunk = list(self._finished)
            self._finished.clear()
            self._any_finished.clear()
        self.unanswered -= len(chunk)
        return chunk

    def leave(self) -> None:
        """Gives up what has not finished."""
        for waiter in self.waiters:
            waiter.leave()

    def _settled(self, one: _Pending, waiter: Waiter) -> None:
        del self.waiters[waiter]
        self.finish((one.index, _settled(one, waiter)))


def _is_due(deadline: float | None) -> bool:
    return deadline is not None and deadlines.is_due(deadline - time.monotonic())


def _refuse_late(count: int) -> None:
    if count:
        raise RequestError(errors.deadline_exceeded())


def _settled(one: _Pending, waiter: Waiter) -> Result:
    outcome = waiter.outcome
    if isinstance(outcome, ArchitectureFailedError):
        return Result(errors.architecture_failed(str(outcome)), ArchitectureOutcome.FAILED)
    if isinstance(outcome, DeadlineExceededError):
        return Result(errors.deadline_exceeded(), ArchitectureOutcome.EXPIRED)
    if isinstance(outcome, StoppingError):
        return _stopped()
    if isinstance(outcome, ArchitectureTooLargeError):
        status = errors.architecture_too_large("max_bytes", outcome.needed, outcome.available)
        return Result(status, ArchitectureOutcome.TOO_LARGE)
    return _evaluated({**one.known, **outcome.scores}, one.stored)


def _stopped() -> Result:
    return Result(errors.draining().status, ArchitectureOutcome.REFUSED)


def _not_admitted(status: status_pb2.Status) -> Result:
    too_large = status.code == code_pb2.RESOURCE_EXHAUSTED
    return Result(status, ArchitectureOutcome.TOO_LARGE if too_large else ArchitectureOutcome.INVALID)


def _of_device(request: ScoringRequest) -> list[str]:
    """The proxies whose scores need a device, and are kept in the store."""
    return [name for name in request.proxies if not registry.get(name).static]


def _evaluated(scores: Mapping[str, Score], stored: Set[str] = frozenset(), *, lasting: bool = False) -> Result:
    outcome = ArchitectureOutcome.OK
    for score in scores.values():
        if score.outcome is Outcome.OK:
            continue
        if score.outcome is Outcome.DEGENERATE:
            outcome = ArchitectureOutcome.DEGENERATE
            break
        outcome = ArchitectureOutcome.NON_FINITE
    exceptions: ProxyOutcomes = ()
    if outcome is not ArchitectureOutcome.OK:
        outcomes = {name: ArchitectureOutcome(score.outcome.value) for name, score in scores.items()}
        exceptions = tuple((name, own) for name, own in outcomes.items() if own is not outcome)
    return Result(scores, outcome, exceptions, stored, lasting)
