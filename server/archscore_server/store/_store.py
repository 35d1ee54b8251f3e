"""The store as the event loop sees it: a memory layer, a backlog that is written behind, and the thread of the file."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from pathlib import Path
from typing import ParamSpec, TypeVar

from archscore.spaces import Architecture
from archscore_server.engine import Outcome, Score
from archscore_server.store._backlog import Backlog, size_of
from archscore_server.store._context import Context
from archscore_server.store._database import Database
from archscore_server.store._file import may_pass
from archscore_server.store._memory import Memory
from archscore_server.store._observer import NullStoreObserver, StoreObserver

P = ParamSpec("P")
T = TypeVar("T")

#: Scores wait for others to be written with at most this long, in seconds...
_FLUSH_SECONDS = 0.5
#: ... and at most so many do; as many are written in one transaction.
_FLUSH_SCORES = 10_000
#: Scores that wait at most while the file cannot be written.
_MAX_WAITING = 100_000
#: Eviction goes down to this share of the limit, so that it is rare, in transactions of so many scores, so that it is
#: never in the way for long.
_EVICT_TO = 0.95
_EVICT_SCORES = 5_000
#: A use is written down when the last one that was is older than this, in seconds.
_USE_SECONDS = 3_600
#: How long closing waits for the thread, in seconds.
_CLOSE_SECONDS = 4.0

_logger = logging.getLogger(__name__)


class _State(Enum):
    UP = auto()
    DOWN = auto()  # failed, and tried again later
    OFF = auto()  # damaged or no store: left alone until the server is started again
    CLOSED = auto()  # not opened yet, or closed


class _FailedError(Exception):
    """Something went wrong in the thread."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.may_pass = may_pass(error)


class Store:
    """Scores by architecture, proxy and context. Lives on one event loop; nothing in here raises."""

    def __init__(
        self,
        path: Path | None,
        *,
        max_scores: int = 10_000_000,
        max_in_memory: int = 50_000,
        retry_seconds: float = 30.0,
        observer: StoreObserver | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """A store that is not open yet: until then it remembers, but reads and writes nothing.

        Args:
            path: its file, which is made if it is missing; None keeps all of it in memory.
            max_scores: scores that it holds at most; those that were not used for longest go first.
            max_in_memory: architectures that the memory layer holds at most.
            retry_seconds: how long a file that failed is left alone.
            observer: hears what happens.
            clock: unix seconds; what uses of scores are dated by.
        """
        self._name = "in memory" if path is None else str(path)
        self._max_scores = max_scores
        self._retry_seconds = retry_seconds
        self._observer = observer or NullStoreObserver()
        self._clock = clock
        self._database = Database(path)
        self._memory = Memory(max_in_memory)
        self._backlog = Backlog(_MAX_WAITING)
        self._uses: dict[Context, dict[Architecture, None]] = {}
        self._entries = 0
        self._state = _State.CLOSED
        self._readable = False
        self._executor: ThreadPoolExecutor | None = None
        self._writer: asyncio.Task[None] | None = None
        self._something_waits = asyncio.Event()
        self._enough_waits = asyncio.Event()
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        """How many scores the file holds, as of the last write."""
        return self._entries

    @property
    def degraded(self) -> bool:
        """Whether its file is not read or not written at the moment."""
        return self._state in (_State.DOWN, _State.OFF)

    async def open(self) -> None:
        """Opens the file. If that fails, the store goes on without it."""
        self._executor = ThreadPoolExecutor(1, "store")
        self._state = _State.UP
        self._observer.store_state_changed(True)
        try:
            self._entries = await self._in_thread(self._database.open)
        except _FailedError as error:
            await self._fail("be opened", error)
        else:
            self._readable = True
        self._observer.store_entries_changed(self._entries)
        if self._state is not _State.OFF:
            self._writer = asyncio.create_task(self._write_behind(), name="store")

    async def close(self) -> None:
        """Writes what waits and closes the file; gives up after some seconds. Does nothing the second time."""
        executor = self._executor
        if executor is None or self._closing.is_set():
            return
        self._closing.set()
        self._readable = False
        self._something_waits.set()
        self._enough_waits.set()
        closing = asyncio.create_task(self._finish(executor))
        await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
        if not closing.done():
            self._database.interrupt()
            await asyncio.wait([closing], timeout=0.5)
        in_time = closing.done()
        if not in_time:
            closing.cancel()
            if self._writer:
                self._writer.cancel()
        lost = self._backlog.clear()
        if lost or not in_time:
            _logger.warning("score store %s: closed without writing %d scores", self._name, lost)
            self._observer.store_dropped(lost)
        self._state = _State.CLOSED
        executor.shutdown(wait=in_time)

    async def get(
        self, context: Context, architectures: Sequence[Architecture], proxies: Sequence[str]
    ) -> list[dict[str, Score]]:
        """What is stored: from memory, and the rest with one look into the file.

        Args:
            context: what the scores depend on.
            architectures: whose scores.
            proxies: which scores.

        Returns:
            For each architecture what is there, by proxy.
        """
        found = self._from_memory(context, architectures, proxies)
        wanted = len(set(proxies))
        lacking = [index for index, scores in enumerate(found) if len(scores) < wanted]
        for index in lacking:
            waiting = self._backlog.get(context, architectures[index])
            found[index].update({proxy: waiting[proxy] for proxy in proxies if proxy in waiting})
        lacking = [index for index in lacking if len(found[index]) < wanted]
        if lacking and self._readable:
            loaded = await self._load(context, list(dict.fromkeys(architectures[index] for index in lacking)))
            for index in lacking:
                scores = loaded.get(architectures[index], {})
                found[index] = {proxy: scores[proxy] for proxy in proxies if proxy in scores} | found[index]
        hits = sum(map(len, found))
        self._observer.store_hits(hits)
        self._observer.store_misses(wanted * len(architectures) - hits)
        return found

    def put(self, context: Context, architecture: Architecture, scores: Mapping[str, Score]) -> None:
        """Remembers scores at once and writes them soon after.

        What has no lasting value is passed over: DEGENERATE, and a mean or standard error that is not a number.

        Args:
            context: what they depend on.
            architecture: whose they are.
            scores: by proxy.
        """
        kept = {proxy: score for proxy, score in scores.items() if _is_kept(score)}
        if not kept:
            return
        self._memory.put(context, architecture, kept, int(self._clock()))
        if self._state is _State.OFF or self._closing.is_set():
            return
        if self._backlog.add(context, architecture, kept):
            self._something_waits.set()
        else:
            self._observer.store_dropped(len(kept))
        if len(self._backlog) >= _FLUSH_SCORES:
            self._enough_waits.set()

    def _from_memory(
        self, context: Context, architectures: Sequence[Architecture], proxies: Sequence[str]
    ) -> list[dict[str, Score]]:
        now = int(self._clock())
        found, to_note = self._memory.get(context, architectures, proxies, now, now - _USE_SECONDS)
        if to_note:
            self._note_uses(context, to_note)
        return found

    def _note_uses(self, context: Context, architectures: Sequence[Architecture]) -> None:
        if self._state is _State.UP:
            self._uses.setdefault(context, {}).update(dict.fromkeys(architectures))
            self._something_waits.set()

    async def _load(
        self, context: Context, architectures: Sequence[Architecture]
    ) -> dict[Architecture, dict[str, Score]]:
        """Reads into memory what the file holds of architectures, and returns it."""
        try:
            stored = await self._in_thread(self._database.read, context, architectures)
        except _FailedError as error:
            self._readable = False
            await self._fail("be read", error)
            return {}
        now = int(self._clock())
        to_note = []
        for architecture, found in stored.items():
            found.scores.update(self._backlog.get(context, architecture))
            if found.used < now - _USE_SECONDS:
                to_note.append(architecture)
        if to_note:
            self._note_uses(context, to_note)
        loaded = {architecture: found.scores for architecture, found in stored.items()}
        self._memory.fill(context, loaded, now)
        return loaded

    # The writer

    async def _write_behind(self) -> None:
        while True:
            await self._something_waits.wait()
            if self._state is _State.DOWN:
                await _wait(self._closing, self._retry_seconds)
            else:
                await _wait(self._enough_waits, _FLUSH_SECONDS)
            self._something_waits.clear()
            self._enough_waits.clear()
            await self._flush()
            if self._state is _State.OFF or (self._closing.is_set() and (self.degraded or not self._backlog)):
                return

    async def _flush(self) -> None:
        """Writes all that waits; opens the file anew first if it had failed."""
        if self._state is _State.DOWN:
            try:
                await self._in_thread(self._database.open)
            except _FailedError as error:
                self._readable = False
                await self._fail("be opened", error)
                return
            self._readable = not self._closing.is_set()
        try:
            await self._write_all()
        except _FailedError as error:
            self._observer.store_write_failed()
            await self._fail("be written", error)
            return
        self._observer.store_entries_changed(self._entries)
        if self._state is _State.DOWN:
            self._state = _State.UP
            _logger.info("score store %s: works again", self._name)
            self._observer.store_state_changed(True)

    async def _write_all(self) -> None:
        """Writes all that waits and brings the file down to its size, in turns: neither waits for all of the other."""
        evict_to = self._max_scores
        while True:
            await self._write_some()
            if self._entries > self._max_scores:
                evict_to = int(self._max_scores * _EVICT_TO)
            excess = self._entries - evict_to
            if excess > 0 and not self._closing.is_set():
                self._entries = await self._in_thread(self._database.evict, min(excess, _EVICT_SCORES))
            elif not self._backlog and not self._uses:
                return

    async def _write_some(self) -> None:
        batch = self._backlog.take(_FLUSH_SCORES)
        uses, self._uses = self._uses, {}
        if not batch and not uses:
            return
        try:
            self._entries = await self._in_thread(self._database.write, batch, uses, int(self._clock()))
        except _FailedError:
            self._observer.store_dropped(self._backlog.restore(batch))
            raise
        self._observer.store_written(size_of(batch))

    async def _finish(self, executor: ThreadPoolExecutor) -> None:
        if self._writer:
            await asyncio.wait([self._writer])
        await asyncio.get_running_loop().run_in_executor(executor, self._close_database)

    def _close_database(self) -> None:
        try:
            self._database.close()
        except sqlite3.Error as error:
            _logger.warning("score store %s: closing it failed: %s", self._name, error)

    # Failures

    async def _fail(self, what: str, error: _FailedError) -> None:
        """Goes on without the file, for a while or for good. Warns once an outage."""
        before = self._state
        if before in (_State.OFF, _State.CLOSED):
            return
        if error.may_pass:
            self._state = _State.DOWN
            self._something_waits.set()
            if before is _State.UP:
                _logger.warning(
                    "score store %s cannot %s: %s. Scores are kept in memory as far as there is room; next try in %g s",
                    self._name,
                    what,
                    error,
                    self._retry_seconds,
                )
        else:
            self._state = _State.OFF
            self._readable = False
            self._uses.clear()
            self._observer.store_dropped(self._backlog.clear())
            self._something_waits.set()
            _logger.warning(
                "score store %s cannot %s: %s. It is left alone until the server is started again",
                self._name,
                what,
                error,
            )
            with contextlib.suppress(_FailedError):
                await self._in_thread(self._close_database)
        if before is _State.UP:
            self._observer.store_state_changed(False)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in the thread.

        Raises:
            _FailedError: it failed, in whatever way.
        """
        call = functools.partial(function, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except Exception as error:
            raise _FailedError(error) from error


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Waits for an event, but not for longer than that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _is_kept(score: Score) -> bool:
    if score.outcome is Outcome.NON_FINITE:
        return True
    return (
        score.outcome is Outcome.OK
        and score.value is not None
        and not math.isnan(score.value)
        and not (score.standard_error is not None and math.isnan(score.standard_error))
    )
