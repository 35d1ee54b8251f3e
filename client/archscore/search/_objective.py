"""What a search looks for: the best value of one proxy, or the best rank sum of several.

Ranks are among those that are compared: the population of a search, or all that it has evaluated. Whatever has no value
of some proxy (it is degenerate, not finite, or failed) has no rank, and is below all that have one.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from archscore.errors import UsageError

if TYPE_CHECKING:
    from archscore.search._record import Record
    from archscore.search._scorer import Scorer

DEFAULT_OBJECTIVE: Final = ("tcet_log",)
"""What is searched for if nothing is said, where no rank sum is known to be better."""

CELL_OBJECTIVE: Final = ("layerwise_naswot_train", "ssnr_grad", "tcet_grad")
"""The same among NAS-Bench-201 cells: of the proxies that the passes of T-CET yield together, the best rank sum on one
half of the cells of docs/results.md, and better than the best single proxy on the other."""

TE_NAS: Final = ("ntk_condition_number", "linear_regions")
"""Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours", ICLR 2021: the rank sum of the condition
number of the neural tangent kernel (lower is better) and the number of linear regions."""

Values: TypeAlias = tuple[float, ...]
"""One number for each proxy of an objective, signed so that more is better."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The proxies that decide, and which way each of them ranks.

    Attributes:
        higher_is_better: by proxy, at least one.
    """

    higher_is_better: Mapping[str, bool]

    @property
    def proxies(self) -> tuple[str, ...]:
        """The names of the proxies."""
        return tuple(self.higher_is_better)

    @property
    def is_rank_sum(self) -> bool:
        """Whether fitness is relative to what is compared."""
        return len(self.higher_is_better) > 1

    def values(self, record: Record) -> Values | None:
        """The signed scores of a record; None if it is below all that have some."""
        values = []
        for proxy, higher in self.higher_is_better.items():
            value = record.scores.get(proxy)
            if value is None or not math.isfinite(value):
                return None
            values.append(value if higher else -value)
        return tuple(values)

    def fitness(self, records: Sequence[Record]) -> list[float]:
        """How good each of some records is among them: more is better; minus infinity where there is no value."""
        standings = Standings(self, records)
        return [standings.fitness(record) for record in records]


class Standings:
    """Ranks among records that become more."""

    def __init__(self, objective: Objective, records: Iterable[Record] = ()) -> None:
        """Starts with some records."""
        self._objective = objective
        self._columns: list[list[float]] = [[] for _ in objective.proxies]
        if objective.is_rank_sum:
            known = [values for values in map(objective.values, records) if values is not None]
            for place, column in enumerate(self._columns):
                column.extend(sorted(values[place] for values in known))

    def add(self, record: Record) -> None:
        """Takes one more."""
        values = self._objective.values(record)
        if values is not None and self._objective.is_rank_sum:
            for column, value in zip(self._columns, values, strict=True):
                insort(column, value)

    def fitness(self, record: Record) -> float:
        """How good a record is among these: its value, or the sum of its ranks.

        A rank is from 0 to 1, the share of records that are not better, ties counting half; the sum is divided by the
        number of proxies.
        """
        values = self._objective.values(record)
        if values is None:
            return -math.inf
        if not self._objective.is_rank_sum:
            return values[0]
        total = 0.0
        for column, value in zip(self._columns, values, strict=True):
            total += (bisect_left(column, value) + bisect_right(column, value)) / (2 * max(1, len(column)))
        return total / len(values)


class Leader:
    """The best of records that become more.

    With several proxies their ranks shift with every record, but the best is always one that no other is at least as
    good as in all proxies and better in one: only that front is kept.
    """

    def __init__(self, objective: Objective) -> None:
        """Starts without any."""
        self._objective = objective
        self._standings = Standings(objective)
        self._front: list[tuple[Values, Record]] = []

    def add(self, record: Record) -> None:
        """Takes one more."""
        self._standings.add(record)
        values = self._objective.values(record)
        if values is None or any(_covers(other, values) for other, _ in self._front):
            return
        self._front = [(other, kept) for other, kept in self._front if not _covers(values, other)]
        self._front.append((values, record))

    @property
    def best(self) -> Record | None:
        """The best, the earliest of equals; None if none has values."""
        return max((record for _, record in self._front), key=self._standings.fitness, default=None)

    def fitness(self, record: Record) -> float:
        """How good a record is among all so far."""
        return self._standings.fitness(record)


def objective_of(scorer: Scorer, proxies: Sequence[str]) -> Objective:
    """The objective of some proxies, each ranking the way that the scorer says.

    Raises:
        UsageError: there are none, one of them twice, or one that the scorer does not know.
    """
    from archscore.v1 import scoring_pb2

    if not proxies:
        raise UsageError("an objective has at least one proxy")
    if len(set(proxies)) != len(proxies):
        raise UsageError(f"an objective has each proxy once: {', '.join(proxies)}")
    known = {proxy.name: proxy.direction for proxy in scorer.proxies()}
    unknown = [name for name in proxies if name not in known]
    if unknown:
        raise UsageError(f"unknown proxy {unknown[0]!r}: known are {', '.join(sorted(known))}")
    return Objective({name: known[name] != scoring_pb2.DIRECTION_LOWER_IS_BETTER for name in proxies})


def _covers(one: Values, other: Values) -> bool:
    return all(mine >= theirs for mine, theirs in zip(one, other, strict=True))
