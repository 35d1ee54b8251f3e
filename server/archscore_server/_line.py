"""Lines of evaluations that wait. Every operation is O(log clients), amortised."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import TYPE_CHECKING

from archscore_server._priority import Priority
from archscore_server._turns import Turns

if TYPE_CHECKING:
    from archscore_server._work import Work

_MOST_URGENT_FIRST = tuple(reversed(Priority))

#: Entries of a heap beyond those in use that are put up with before it is cleared of them.
_SLACK = 64


class Line:
    """Evaluations that wait, by priority and client. One that several clients wait for stands here for each of them."""

    def __init__(self, turns: Turns) -> None:
        """An empty line, whose clients take these turns."""
        self._turns = turns
        self._levels: dict[Priority, _Level] = {}

    def add(self, work: Work, client: str, priority: Priority) -> None:
        """Puts a newcomer last among those of its client and priority."""
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level(self._turns)
        level.add(work, client)

    def remove(self, work: Work, client: str, priority: Priority) -> None:
        """Takes out one that stands in line for a client."""
        self._levels[priority].remove(work, client)

    def repaid(self, client: str) -> None:
        """To be called when a client's virtual time has become less, which the line would not notice by itself."""
        for level in self._levels.values():
            level.repaid(client)

    def count(self, client: str, priority: Priority) -> int:
        """How many of a priority stand here for a client."""
        level = self._levels.get(priority)
        return level.count(client) if level else 0

    @property
    def priorities(self) -> list[Priority]:
        """Those that somebody waits at, the most urgent first."""
        return [priority for priority in _MOST_URGENT_FIRST if self._levels.get(priority)]

    def first(self, priority: Priority) -> tuple[str, Work]:
        """The client whose turn it is at a priority that somebody waits at, and the first that stands there for it."""
        return self._levels[priority].first()


class _Level:
    """What waits at one priority: a lane for each client, and whose turn it is.

    The heap orders clients by their virtual times as they were when last looked at. Times grow all the time, and that
    is found out when an entry comes to the top; a client whose time has become less gets a second entry. An entry is
    out of date if `_entered` has another time for its client.
    """

    __slots__ = ("_entered", "_heap", "_lanes", "_order", "_turns")

    def __init__(self, turns: Turns) -> None:
        # An OrderedDict takes from its front and from its middle in O(1); a plain dict searches past what was taken.
        self._lanes: dict[str, OrderedDict[Work, None]] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._entered: dict[str, float] = {}
        self._order = count()
        self._turns = turns

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def count(self, client: str) -> int:
        return len(self._lanes.get(client, ()))

    def add(self, work: Work, client: str) -> None:
        lane = self._lanes.get(client)
        if lane is None:
            lane = self._lanes[client] = OrderedDict()
            self._enter(client)
        lane[work] = None

    def remove(self, work: Work, client: str) -> None:
        lane = self._lanes[client]
        del lane[work]
        if not lane:
            del self._lanes[client]
            del self._entered[client]

    def repaid(self, client: str) -> None:
        if client in self._lanes and self._turns.time(client) < self._entered[client]:
            self._enter(client)

    def first(self) -> tuple[str, Work]:
        while True:
            entered, _, client = self._heap[0]
            if self._entered.get(client) != entered:
                heappop(self._heap)
                continue
            time = self._turns.time(client)
            if time <= entered:
                return client, next(iter(self._lanes[client]))
            self._entered[client] = time
            heapreplace(self._heap, (time, next(self._order), client))

    def _enter(self, client: str) -> None:
        self._entered[client] = self._turns.time(client)
        heappush(self._heap, (self._entered[client], next(self._order), client))
        if len(self._heap) > 2 * len(self._entered) + _SLACK:
            self._heap = [(time, next(self._order), client) for client, time in self._entered.items()]
            heapify(self._heap)
