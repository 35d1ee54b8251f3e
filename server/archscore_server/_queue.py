"""What waits for a slot, in which order, and what goes into one batch. Bookkeeping only: no tasks, no clock.

Every operation is O(1), amortised, in the number of evaluations.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from itertools import chain, islice
from typing import Literal

from archscore.spaces import Architecture
from archscore_server._waiter import Waiter
from archscore_server.engine import EvaluationConfig

#: Why a batch starts: as many wait as a batch holds; its hold is over; it is what another batch left behind.
BatchReason = Literal["full", "waited", "retry"]


class Priority(IntEnum):
    """How urgent an evaluation is, as in the contract."""

    BULK = 1
    DEFAULT = 2
    INTERACTIVE = 3


@dataclass(frozen=True, slots=True)
class Item:
    """One evaluation; equal items are the same work.

    Attributes:
        architecture: what to evaluate; its type implies the search space.
        proxies: names of proxies, sorted.
        config: how to evaluate.
    """

    architecture: Architecture
    proxies: tuple[str, ...]
    config: EvaluationConfig


class Place(Enum):
    """Where an evaluation is."""

    LINE = auto()
    RETRY = auto()
    RUNNING = auto()
    ENDED = auto()


class Work:
    """One evaluation in flight.

    Attributes:
        architecture: what to evaluate.
        group: what it may share a batch with.
        priority: that of its most urgent waiter so far.
        waiters: who waits for it, in order of arrival.
        lone_deaths: how many workers died while they had this evaluation alone.
        place: where it is.
        retry: the batch to run again that it is part of, while its place is RETRY.
    """

    __slots__ = ("architecture", "group", "lone_deaths", "place", "priority", "retry", "waiters")

    def __init__(self, architecture: Architecture, group: Group, priority: Priority) -> None:
        """An evaluation that is in no line yet."""
        self.architecture = architecture
        self.group = group
        self.priority = priority
        self.waiters: dict[Waiter, None] = {}
        self.lone_deaths = 0
        self.place = Place.LINE
        self.retry: dict[Work, None] | None = None


class Line:
    """Evaluations in order of urgency: by priority, then first come, first served."""

    def __init__(self) -> None:
        """An empty line."""
        # An OrderedDict takes from its front and from its middle in O(1); a plain dict searches past what was taken.
        self._lanes: dict[Priority, OrderedDict[Work, None]] = {
            priority: OrderedDict() for priority in reversed(Priority)
        }
        self._length = 0

    def __len__(self) -> int:
        """How many stand in line."""
        return self._length

    def append(self, work: Work) -> None:
        """Puts a newcomer last among its priority."""
        self._lanes[work.priority][work] = None
        self._length += 1

    def remove(self, work: Work) -> None:
        """Takes out one that stands in line."""
        del self._lanes[work.priority][work]
        self._length -= 1

    def head(self) -> Work | None:
        """The most urgent one."""
        return next(iter(self), None)

    def __iter__(self) -> Iterator[Work]:
        """All, the most urgent first."""
        return chain.from_iterable(self._lanes.values())


_Key = tuple[type[Architecture], tuple[str, ...], EvaluationConfig]


class Group:
    """Evaluations that can share a batch: one search space, the same proxies, the same config.

    Attributes:
        key: what they share.
        works: all of them by architecture, waiting or running.
        line: those that wait for their first batch.
        ready: whether a batch may start; else the group is held, so that more can join.
        held_since: when the first of the line arrived.
        running: how many are in running batches.
    """

    __slots__ = ("held_since", "key", "line", "ready", "running", "works")

    def __init__(self, key: _Key) -> None:
        """An empty group."""
        self.key = key
        self.works: dict[Architecture, Work] = {}
        self.line = Line()
        self.ready = False
        self.held_since = 0.0
        self.running = 0

    @property
    def proxies(self) -> tuple[str, ...]:
        """The proxies they ask for."""
        return self.key[1]

    @property
    def config(self) -> EvaluationConfig:
        """How they are evaluated."""
        return self.key[2]

    def takes(self, item: Item) -> bool:
        """Whether an item is plainly one of this group: a quick test by identity, and no is not certain."""
        space, proxies, config = self.key
        return item.config is config and item.proxies is proxies and type(item.architecture) is space


class Queue:
    """Everything in flight: lines of what waits, and an account of what runs.

    A group is held from its first arrival until a batch is full or `batch_delay` has passed, and is then ready until
    its line is empty. `Line` decides who among the ready goes first: ageing, or fairness between clients, goes there.

    Attributes:
        slots: batches that can run at once.
        max_batch: evaluations in a batch, at most.
        in_flight: evaluations that wait or run.
    """

    def __init__(self, *, batch_delay: float) -> None:
        """An empty queue, with one slot and batches of one until more is known.

        Args:
            batch_delay: seconds that a group which does not fill a batch is held.
        """
        self.slots = 1
        self.max_batch = 1
        self.in_flight = 0
        self._batch_delay = batch_delay
        self._groups: dict[_Key, Group] = {}
        self._held: OrderedDict[Group, None] = OrderedDict()
        self._ready = Line()
        self._retries: deque[dict[Work, None]] = deque()
        self._waiting = 0

    def __len__(self) -> int:
        """How many wait, those to be run again included."""
        return self._waiting

    def find(self, item: Item) -> Work | None:
        """The work of an item in flight."""
        group = self._groups.get((type(item.architecture), item.proxies, item.config))
        return group.works.get(item.architecture) if group else None

    def group(self, item: Item) -> Group:
        """The group that an item belongs to; the caller adds work to it if it is new."""
        key = (type(item.architecture), item.proxies, item.config)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        return group

    def add(self, architecture: Architecture, group: Group, priority: Priority, now: float) -> Work:
        """Admits an evaluation that is not in flight."""
        work = group.works[architecture] = Work(architecture, group, priority)
        self.in_flight += 1
        self._waiting += 1
        group.line.append(work)
        if group.ready:
            self._ready.append(work)
        elif len(group.line) == 1:
            group.held_since = now
            self._held[group] = None
        if not group.ready and (len(group.line) >= self.max_batch or self._batch_delay <= 0):
            self._make_ready(group)
        return work

    def promote(self, work: Work, priority: Priority) -> None:
        """Raises the priority of work in flight; where it stands in line, it goes last among its new priority."""
        if work.place is Place.LINE:
            lines = (work.group.line, self._ready) if work.group.ready else (work.group.line,)
            for line in lines:
                line.remove(work)
            work.priority = priority
            for line in lines:
                line.append(work)
        work.priority = priority

    def take(self, now: float) -> tuple[list[Work], BatchReason] | None:
        """The batch to start next, counted as running from here on; None if nothing is ready."""
        while self._retries:
            works = list(self._retries.popleft())
            if works:
                for work in works:
                    work.retry = None
                self._start(works)
                return works, "retry"
        while self._held and (group := next(iter(self._held))).held_since + self._batch_delay <= now:
            self._make_ready(group)
        head = self._ready.head()
        if head is None:
            return None
        group = head.group
        reason: BatchReason = "full" if len(group.line) >= self.max_batch else "waited"
        # Each slot's fair share of all that is left of the group: one that starts now leaves as much to the others.
        share = -(-(len(group.line) + group.running) // self.slots)
        works = list(islice(group.line, min(share, self.max_batch)))
        for work in works:
            self._leave_line(work)
        self._start(works)
        return works, reason

    def next_ready(self) -> float | None:
        """When the hold of the longest held group ends."""
        return next(iter(self._held)).held_since + self._batch_delay if self._held else None

    def retry(self, works: list[Work]) -> None:
        """Has running work run again, before all else, as one batch."""
        batch = dict.fromkeys(works)
        for work in works:
            work.place = Place.RETRY
            work.retry = batch
            work.group.running -= 1
        self._waiting += len(works)
        self._retries.append(batch)

    def remove(self, work: Work) -> None:
        """Ends work, wherever it is."""
        if work.place is Place.RUNNING:
            work.group.running -= 1
        else:
            self._waiting -= 1
            if work.retry is not None:
                del work.retry[work]
            else:
                self._leave_line(work)
        work.place = Place.ENDED
        del work.group.works[work.architecture]
        self.in_flight -= 1
        if not work.group.works:
            del self._groups[work.group.key]

    def all(self) -> list[Work]:
        """Everything in flight."""
        return [work for group in self._groups.values() for work in group.works.values()]

    def _make_ready(self, group: Group) -> None:
        self._held.pop(group, None)
        group.ready = True
        for work in group.line:
            self._ready.append(work)

    def _leave_line(self, work: Work) -> None:
        group = work.group
        group.line.remove(work)
        if group.ready:
            self._ready.remove(work)
        if not group.line:
            group.ready = False
            self._held.pop(group, None)

    def _start(self, works: list[Work]) -> None:
        self._waiting -= len(works)
        for work in works:
            work.place = Place.RUNNING
            work.group.running += 1
