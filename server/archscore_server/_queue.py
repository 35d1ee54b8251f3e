"""What waits for a slot, in which order, and what goes into one batch. Bookkeeping only: no tasks, no clock.

Every operation is O(1), amortised, in the number of evaluations; to take a batch is linear in the number of clients.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, IntEnum, auto
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import Literal

from archscore.spaces import Architecture
from archscore_server._rates import Rates
from archscore_server._turns import Turns
from archscore_server._waiter import Waiter
from archscore_server.engine import EvaluationConfig

#: Why a batch starts: as many wait as a batch holds; its hold is over; it is what another batch left behind.
BatchReason = Literal["full", "waited", "retry"]

#: Batches that may go to more urgent work while a priority waits; the next one is its own. So that nothing waits for
#: ever, the least urgent work has at least about an eighth of the batches.
_MAX_PASSED = 7

#: What an evaluation is taken to cost, in seconds of a slot, before one of its kind was measured.
_UNMEASURED_SECONDS = 1.0


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


class Claim:
    """A client's part in an evaluation.

    Attributes:
        priority: that of its most urgent waiter so far.
        waiters: how many of its waiters there are.
    """

    __slots__ = ("priority", "waiters")

    def __init__(self, priority: Priority) -> None:
        """The first waiter's."""
        self.priority = priority
        self.waiters = 1


class Work:
    """One evaluation in flight.

    Attributes:
        architecture: what to evaluate.
        group: what it may share a batch with.
        claims: the clients that wait for it. It stands in the line of each.
        waiters: who waits for it, in order of arrival.
        lone_deaths: how many workers died while they had this evaluation alone.
        place: where it is.
        retry: the batch to run again that it is part of, while its place is RETRY.
        payer: the client whose turn it was when it was taken.
        paid: seconds that its client was charged when its batch started.
    """

    __slots__ = ("architecture", "claims", "group", "lone_deaths", "paid", "payer", "place", "retry", "waiters")

    def __init__(self, architecture: Architecture, group: Group) -> None:
        """An evaluation that is in no line yet."""
        self.architecture = architecture
        self.group = group
        self.claims: dict[str, Claim] = {}
        self.waiters: dict[Waiter, None] = {}
        self.lone_deaths = 0
        self.place = Place.LINE
        self.retry: dict[Work, None] | None = None
        self.payer = ""
        self.paid = 0.0

    @property
    def item(self) -> Item:
        """What it evaluates, as it was asked for."""
        return Item(self.architecture, self.group.proxies, self.group.config)


#: The works of a client, first come first. An OrderedDict takes from its front and from its middle in O(1); a plain
#: dict searches past what was taken.
_Lane = OrderedDict[Work, None]


class Line:
    """Evaluations that wait, by priority and client. One that several clients wait for stands here for each of them."""

    def __init__(self) -> None:
        """An empty line."""
        self._lanes: dict[Priority, dict[str, _Lane]] = {priority: {} for priority in reversed(Priority)}

    def add(self, work: Work, client: str, priority: Priority) -> None:
        """Puts a newcomer last among those of its client and priority."""
        self._lanes[priority].setdefault(client, OrderedDict())[work] = None

    def remove(self, work: Work, client: str, priority: Priority) -> None:
        """Takes out one that stands in line for a client."""
        lanes = self._lanes[priority]
        lane = lanes[client]
        del lane[work]
        if not lane:
            del lanes[client]

    def ahead(self, client: str, priority: Priority) -> int:
        """How many of a client's stand before one of this priority that came now."""
        return sum(len(lanes.get(client, ())) for level, lanes in self._lanes.items() if level >= priority)

    @property
    def priorities(self) -> list[Priority]:
        """Those that somebody waits at, the most urgent first."""
        return [priority for priority, lanes in self._lanes.items() if lanes]

    def head(self, priority: Priority, turns: Turns) -> tuple[str, Work]:
        """Whose turn it is at a priority, and the first of theirs."""
        lanes = self._lanes[priority]
        client = min(lanes, key=turns.time)
        return client, next(iter(lanes[client]))

    def in_turn(self, first: Priority, turns: Turns, seconds: float) -> Iterator[tuple[str, Work]]:
        """All, each once, with the client whose turn it is if each takes so many seconds; the others by urgency."""
        seen: set[Work] = set()
        for priority in sorted(self._lanes, key=lambda priority: (priority != first, -priority)):
            lanes = self._lanes[priority]
            heap = [
                (turns.time(client), order, client, iter(lane)) for order, (client, lane) in enumerate(lanes.items())
            ]
            heapify(heap)
            while heap:
                time, order, client, lane = heap[0]
                work = next((work for work in lane if work not in seen), None)
                if work is None:
                    heappop(heap)
                    continue
                heapreplace(heap, (time + seconds, order, client, lane))
                seen.add(work)
                yield client, work


_Key = tuple[type[Architecture], tuple[str, ...], EvaluationConfig]


class Group:
    """Evaluations that can share a batch: one search space, the same proxies, the same config.

    Attributes:
        key: what they share.
        kind: what they have in common with those that take as long: all of that but the seed.
        works: all of them by architecture, waiting or running.
        line: those that wait for their first batch.
        waiting: how many do.
        ready: whether a batch may start; else the group is held, so that more can join.
        held_since: when the first of the line arrived.
        running: how many are in running batches.
    """

    __slots__ = ("held_since", "key", "kind", "line", "ready", "running", "waiting", "works")

    def __init__(self, key: _Key) -> None:
        """An empty group."""
        space, proxies, config = key
        self.key = key
        self.kind: Hashable = (space, proxies, replace(config, seed=0))
        self.works: dict[Architecture, Work] = {}
        self.line = Line()
        self.waiting = 0
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
    its line is empty. Among the ready, priority decides and then the turns of clients.

    Attributes:
        slots: batches that can run at once.
        max_batch: evaluations in a batch, at most.
        in_flight: evaluations that wait or run.
        turns: of the clients.
        rates: how long evaluations take.
    """

    def __init__(self, *, batch_delay: float) -> None:
        """An empty queue, with one slot and batches of one until more is known.

        Args:
            batch_delay: seconds that a group which does not fill a batch is held.
        """
        self.slots = 1
        self.max_batch = 1
        self.in_flight = 0
        self.turns = Turns()
        self.rates = Rates()
        self._batch_delay = batch_delay
        self._groups: dict[_Key, Group] = {}
        self._held: OrderedDict[Group, None] = OrderedDict()
        self._ready = Line()
        self._passed = dict.fromkeys(Priority, 0)
        self._retries: deque[dict[Work, None]] = deque()
        self._retried = False
        self._waiting = 0

    def __len__(self) -> int:
        """How many wait, those to be run again included."""
        return self._waiting

    def find(self, item: Item) -> Work | None:
        """The work of an item in flight."""
        group = self._groups.get((type(item.architecture), item.proxies, item.config))
        return group.works.get(item.architecture) if group else None

    def group(self, item: Item) -> Group:
        """The group that an item belongs to; it is kept once work is added to it."""
        key = (type(item.architecture), item.proxies, item.config)
        return self._groups.get(key) or Group(key)

    def add(self, architecture: Architecture, group: Group, client: str, priority: Priority, now: float) -> Work:
        """Admits an evaluation that is not in flight, for a client's waiter."""
        self._groups[group.key] = group
        work = group.works[architecture] = Work(architecture, group)
        self.in_flight += 1
        self._waiting += 1
        group.waiting += 1
        self.claim(work, client, priority)
        if not group.ready and group.waiting == 1:
            group.held_since = now
            self._held[group] = None
        if not group.ready and (group.waiting >= self.max_batch or self._batch_delay <= 0):
            self._make_ready(group)
        return work

    def claim(self, work: Work, client: str, priority: Priority) -> None:
        """A client has one waiter more for an evaluation, which goes last among those of its client and priority."""
        claim = work.claims.get(client)
        if claim is None:
            work.claims[client] = Claim(priority)
            self.turns.enter(client)
        else:
            claim.waiters += 1
            if priority <= claim.priority:
                return
            if work.place is Place.LINE:
                for line in self._lines(work.group):
                    line.remove(work, client, claim.priority)
            claim.priority = priority
        if work.place is Place.LINE:
            for line in self._lines(work.group):
                line.add(work, client, priority)

    def unclaim(self, work: Work, client: str) -> None:
        """A client has one waiter less for an evaluation."""
        claim = work.claims[client]
        claim.waiters -= 1
        if claim.waiters:
            return
        if work.place is Place.LINE and len(work.claims) > 1:
            for line in self._lines(work.group):
                line.remove(work, client, claim.priority)
        if len(work.claims) > 1 or work.place is Place.RUNNING:
            del work.claims[client]
            self.turns.leave(client)

    def take(self, now: float) -> tuple[list[Work], BatchReason] | None:
        """The batch to start next, counted as running from here on; None if nothing is ready."""
        while self._held and (group := next(iter(self._held))).held_since + self._batch_delay <= now:
            self._make_ready(group)
        priorities = self._ready.priorities
        # What a lost worker left behind is dangerous, and slow: it does not go twice in a row while others wait.
        if self._retries and not (self._retried and priorities) and (works := self._take_retry()):
            self._retried = True
            return works, "retry"
        self._retried = False
        if not priorities:
            return None
        priority = self._age(priorities)
        client, head = self._ready.head(priority, self.turns)
        self.turns.next(client)
        group = head.group
        reason: BatchReason = "full" if group.waiting >= self.max_batch else "waited"
        # Each slot's fair share of all that is left of the group: one that starts now leaves as much to the others.
        share = -(-(group.waiting + group.running) // self.slots)
        seconds = self.expected(group)
        taken = list(islice(group.line.in_turn(priority, self.turns, seconds), min(share, self.max_batch)))
        for payer, work in taken:
            work.payer = payer
            self._leave_line(work)
        works = [work for _, work in taken]
        self._start(works)
        return works, reason

    def expected(self, group: Group) -> float:
        """Seconds of a slot that an evaluation of a group is taken to cost."""
        measured = self.rates.measured(group.kind)
        return _UNMEASURED_SECONDS if measured is None else measured

    def next_ready(self) -> float | None:
        """When the hold of the longest held group ends."""
        return next(iter(self._held)).held_since + self._batch_delay if self._held else None

    def settle_up(self, works: list[Work], seconds: float) -> None:
        """Has clients pay for what a batch that had its slot for so many seconds really took."""
        for work in works:
            self.turns.charge(work.payer, seconds / len(works) - work.paid)

    def retry(self, works: list[Work]) -> None:
        """Has running work run again, as one batch."""
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
        for client in work.claims:
            self.turns.leave(client)
        work.claims.clear()
        del work.group.works[work.architecture]
        self.in_flight -= 1
        if not work.group.works:
            del self._groups[work.group.key]

    def all(self) -> list[Work]:
        """Everything in flight."""
        return [work for group in self._groups.values() for work in group.works.values()]

    def _age(self, priorities: list[Priority]) -> Priority:
        """The priority of the next batch: the most urgent one, unless another was passed over too often."""
        most = max(priorities, key=lambda priority: (self._passed[priority] >= _MAX_PASSED, priority))
        for priority in Priority:
            if priority < most and priority in priorities:
                self._passed[priority] += 1
            elif priority == most or priority not in priorities:
                self._passed[priority] = 0
        return most

    def _take_retry(self) -> list[Work]:
        while self._retries:
            works = list(self._retries.popleft())
            for work in works:
                work.retry = None
            if works:
                self._start(works)
                return works
        return []

    def _lines(self, group: Group) -> tuple[Line, ...]:
        """Those that the work of a group stands in while it waits for its first batch."""
        return (group.line, self._ready) if group.ready else (group.line,)

    def _make_ready(self, group: Group) -> None:
        self._held.pop(group, None)
        group.ready = True
        for work in group.works.values():  # in order of arrival
            if work.place is Place.LINE:
                for client, claim in work.claims.items():
                    self._ready.add(work, client, claim.priority)

    def _leave_line(self, work: Work) -> None:
        group = work.group
        for line in self._lines(group):
            for client, claim in work.claims.items():
                line.remove(work, client, claim.priority)
        group.waiting -= 1
        if not group.waiting:
            group.ready = False
            self._held.pop(group, None)

    def _start(self, works: list[Work]) -> None:
        self._waiting -= len(works)
        for work in works:
            work.place = Place.RUNNING
            work.group.running += 1
            work.paid = self.expected(work.group)
            self.turns.charge(work.payer, work.paid)
