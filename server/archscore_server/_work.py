"""Evaluations in flight, and groups of them that can share a batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from archscore.spaces import Architecture
from archscore_server._line import Line
from archscore_server._priority import Priority
from archscore_server._rates import Pace
from archscore_server._waiter import Waiter
from archscore_server.engine import EvaluationConfig


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
        priority: the most urgent that it was asked for with, so far.
        arrived: when it was admitted.
        lone_deaths: how many workers died while they had this evaluation alone.
        place: where it is.
        retry: the batch to run again that it is part of, while its place is RETRY.
        payer: the client whose turn it was when its batch was taken, until what that took is settled.
        paid: seconds of a slot that the payer was charged in advance.
    """

    __slots__ = (
        "architecture",
        "arrived",
        "claims",
        "group",
        "lone_deaths",
        "paid",
        "payer",
        "place",
        "priority",
        "retry",
        "waiters",
    )

    def __init__(self, architecture: Architecture, group: Group, priority: Priority, arrived: float) -> None:
        """An evaluation that is in no line yet."""
        self.architecture = architecture
        self.group = group
        self.claims: dict[str, Claim] = {}
        self.waiters: dict[Waiter, None] = {}
        self.priority = priority
        self.arrived = arrived
        self.lone_deaths = 0
        self.place = Place.LINE
        self.retry: dict[Work, None] | None = None
        self.payer: str | None = None
        self.paid = 0.0

    @property
    def item(self) -> Item:
        """What it evaluates, as it was asked for."""
        return Item(self.architecture, self.group.proxies, self.group.config)


#: What works that can share a batch have in common.
Key = tuple[type[Architecture], tuple[str, ...], EvaluationConfig]


class Group:
    """Evaluations that can share a batch: one search space, the same proxies, the same config.

    Attributes:
        key: what they share.
        pace: how long they take.
        works: all of them by architecture, waiting or running.
        line: those that wait for their first batch.
        waiting: how many do.
        ready: whether a batch may start; else the group is held, so that more can join.
        held_since: when the first of the line arrived.
        running: how many are in running batches.
    """

    __slots__ = ("held_since", "key", "line", "pace", "ready", "running", "waiting", "works")

    def __init__(self, key: Key, line: Line, pace: Pace) -> None:
        """An empty group, with an empty line."""
        self.key = key
        self.pace = pace
        self.works: dict[Architecture, Work] = {}
        self.line = line
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
