"""What waits for a slot, in which order, and what goes into one batch. Bookkeeping only: no tasks, no clock.

Every operation is O(1) in the number of evaluations and O(log) in that of clients, amortised.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from archscore.spaces import Architecture
from archscore_server._line import Line
from archscore_server._priority import Ageing, Priority
from archscore_server._rates import Rates
from archscore_server._turns import Turns
from archscore_server._work import Claim, Group, Item, Key, Place, Work

#: Seconds that a batch takes, at most, which has more than `Queue.max_batch` evaluations.
_SHORT_SECONDS = 0.5
_INSTANT = 1e-6

#: Why a batch starts: as many wait as a batch holds; its hold is over; it is what another batch left behind.
BatchReason = Literal["full", "waited", "retry"]


class Queue:
    """Everything in flight: lines of what waits, and an account of what runs.

    A group is held from its first arrival until a batch is full or `batch_delay` has passed, and is then ready until
    its line is empty. Among the ready, priority decides and then the turns of clients.

    Attributes:
        slots: batches that can run at once.
        max_batch: evaluations in a batch, at most.
        max_short_batch: the same of evaluations that are known to take little time.
        in_flight: evaluations that wait or run.
        depths: evaluations that wait, those to be run again included, by the most urgent priority of each so far.
        rates: how long evaluations take.
    """

    def __init__(self, *, batch_delay: float) -> None:
        """An empty queue, with one slot and batches of one until more is known.

        Args:
            batch_delay: seconds that a group which does not fill a batch is held.
        """
        self.slots = 1
        self.max_batch = 1
        self.max_short_batch = 1
        self.in_flight = 0
        self.depths = dict.fromkeys(Priority, 0)
        self.rates = Rates()
        self._batch_delay = batch_delay
        self._turns = Turns()
        self._ageing = Ageing()
        self._groups: dict[Key, Group] = {}
        self._held: OrderedDict[Group, None] = OrderedDict()
        self._ready = Line(self._turns)
        self._retries: deque[dict[Work, None]] = deque()
        self._retried = False

    def __len__(self) -> int:
        """How many wait, those to be run again included."""
        return sum(self.depths.values())

    def find(self, item: Item) -> Work | None:
        """The work of an item in flight."""
        group = self._groups.get((type(item.architecture), item.proxies, item.config))
        return group.works.get(item.architecture) if group else None

    def group(self, item: Item) -> Group:
        """The group that an item belongs to; it is kept once work is added to it."""
        key = (type(item.architecture), item.proxies, item.config)
        group = self._groups.get(key)
        if group is None:
            space, proxies, config = key
            # What is drawn from a seed takes as long as what is drawn from another.
            pace = self.rates.pace((space, proxies, replace(config, seed=0)))
            group = Group(key, Line(self._turns), pace)
        return group

    def add(self, architecture: Architecture, group: Group, client: str, priority: Priority, now: float) -> Work:
        """Admits an evaluation that is not in flight, for a client's waiter."""
        self._groups[group.key] = group
        work = group.works[architecture] = Work(architecture, group, priority, now)
        self.in_flight += 1
        self.depths[priority] += 1
        group.waiting += 1
        self.claim(work, client, priority)
        if not group.ready and group.waiting == 1:
            group.held_since = now
            self._held[group] = None
        if not group.ready and (group.waiting >= self.capacity(group) or self._batch_delay <= 0):
            self._make_ready(group)
        return work

    def claim(self, work: Work, client: str, priority: Priority) -> None:
        """A client has one waiter more for an evaluation, which goes last among those of its client and priority."""
        if priority > work.priority:
            if work.place is not Place.RUNNING:
                self.depths[work.priority] -= 1
                self.depths[priority] += 1
            work.priority = priority
        claim = work.claims.get(client)
        if claim is None:
            work.claims[client] = Claim(priority)
            self._turns.enter(client)
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
            self._turns.leave(client)

    def take(self, now: float) -> tuple[list[Work], BatchReason] | None:
        """The batch to start next, counted as running from here on; None if nothing is ready.

        Should this fail half-way, nothing is lost: what it has taken is to be run again.
        """
        works: list[Work] = []
        try:
            reason = self._fill(works, now)
        except Exception:
            if works:
                self.retry(works)
                self.settle_up(works, 0.0)
            raise
        return (works, reason) if reason else None

    def capacity(self, group: Group) -> int:
        """How many evaluations of a group may be in a batch."""
        short = min(self.max_short_batch, int(_SHORT_SECONDS / max(group.pace.expected, _INSTANT)))
        return max(self.max_batch, short)

    def next_ready(self) -> float | None:
        """When the hold of the longest held group ends."""
        return next(iter(self._held)).held_since + self._batch_delay if self._held else None

    def settle_up(self, works: Sequence[Work], seconds: float) -> None:
        """Has clients pay for what a batch really took, unless they have.

        Args:
            works: the batch, or those of it that did not start.
            seconds: how long these had their slot.
        """
        for work in works:
            payer, work.payer = work.payer, None
            if payer is not None:
                self._turns.charge(payer, seconds / len(works) - work.paid)
                for line in (self._ready, work.group.line):
                    line.repaid(payer)
                self._turns.leave(payer)

    def retry(self, works: list[Work]) -> None:
        """Has running work run again, as one batch."""
        batch = dict.fromkeys(works)
        for work in works:
            work.place = Place.RETRY
            work.retry = batch
            work.group.running -= 1
            self.depths[work.priority] += 1
        self._retries.append(batch)

    def remove(self, work: Work) -> None:
        """Ends work, wherever it is."""
        if work.place is Place.RUNNING:
            work.group.running -= 1
        else:
            self.depths[work.priority] -= 1
            if work.retry is not None:
                del work.retry[work]
            else:
                self._leave_line(work)
        work.place = Place.ENDED
        for client in work.claims:
            self._turns.leave(client)
        work.claims.clear()
        del work.group.works[work.architecture]
        self.in_flight -= 1
        if not work.group.works:
            del self._groups[work.group.key]

    def all(self) -> list[Work]:
        """Everything in flight."""
        return [work for group in self._groups.values() for work in group.works.values()]

    def _fill(self, works: list[Work], now: float) -> BatchReason | None:
        """Takes the batch to start next, one by one, and says why it starts; None if nothing is ready."""
        while self._held and (group := next(iter(self._held))).held_since + self._batch_delay <= now:
            self._make_ready(group)
        priorities = self._ready.priorities
        # What a lost worker left behind is dangerous, and slow: it does not go twice in a row while others wait.
        if self._retries and not (self._retried and priorities):
            self._take_retry(works)
        self._retried = bool(works)
        if works:
            return "retry"
        if not priorities:
            return None
        priority = self._ageing.next(priorities)
        client, work = self._ready.first(priority)
        self._turns.next(client)
        group = work.group
        capacity = self.capacity(group)
        reason: BatchReason = "full" if group.waiting >= capacity else "waited"
        # Each slot's fair share of all that is left of the group: one that starts now leaves as much to the others.
        share = -(-(group.waiting + group.running) // self.slots)
        self._take(works, work, client)
        while group.waiting and len(works) < min(share, capacity):
            waiting = group.line.priorities
            client, work = group.line.first(priority if priority in waiting else waiting[0])
            self._take(works, work, client)
        return reason

    def _take(self, works: list[Work], work: Work, client: str) -> None:
        self._leave_line(work)
        self._start(works, work, client)

    def _take_retry(self, works: list[Work]) -> None:
        while self._retries and not works:
            batch = self._retries[0]
            for work in list(batch):
                payer = next(iter(work.claims))
                del batch[work]
                work.retry = None
                self._start(works, work, payer)
            self._retries.popleft()

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

    def _start(self, works: list[Work], work: Work, payer: str) -> None:
        works.append(work)
        work.place = Place.RUNNING
        work.group.running += 1
        self.depths[work.priority] -= 1
        work.payer = payer
        work.paid = work.group.pace.expected
        # Until the batch has ended and it is known what it took, its client is not forgotten.
        self._turns.enter(payer)
        self._turns.charge(payer, work.paid)
