"""The elimination search of Zen-NAS.

Source: Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", ICCV 2021, and the code of its
experiments on CIFAR.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from archscore.search._domain import Domain
from archscore.search._objective import Objective
from archscore.search._record import Record
from archscore.search._strategy import Population, Proposal, Proposer

_FOUNDERS: Final = 10
"""While the population holds at most so many members, proposals are mutations of the start."""


@dataclass(frozen=True, slots=True)
class Elimination:
    """Mutates a random member of a population, which drops its worst member.

    A genome is mutated twice, which is two replacements. While there are at most 10 members, proposals are the start of
    the published search with one replacement; in NAS-Bench-201, which has no start, random cells.

    Attributes:
        population: members that are kept.
    """

    name: ClassVar[str] = "elimination"

    population: int = 512

    def __post_init__(self) -> None:
        """Refuses an empty population, with a ValueError."""
        if self.population < 1:
            raise ValueError("population must be at least 1")

    def start(self, domain: Domain, objective: Objective, lag: int) -> Proposer:  # noqa: ARG002 -- of every strategy
        """Begins with an empty population."""
        return _Proposer(self, domain, objective)

    def to_json(self) -> dict[str, Any]:
        """Its parameters."""
        return asdict(self)


class _Proposer:
    def __init__(self, strategy: Elimination, domain: Domain, objective: Objective) -> None:
        self._strategy = strategy
        self._domain = domain
        self._population = Population(objective)

    def propose(self, _number: int, rng: random.Random) -> Proposal:
        # A population that can hold no more than the founders must not stay with them for ever.
        if len(self._population) <= min(_FOUNDERS, self._strategy.population - 1):
            return Proposal(self._domain.start(rng))
        parent = rng.choice(self._population.members)
        return Proposal(self._domain.parse(parent.architecture).mutate(rng).mutate(rng), parent.index)

    def tell(self, record: Record) -> None:
        population = self._population
        population.add(record)
        if len(population) > self._strategy.population:
            # Of the worst the oldest goes, so that a population of equals moves on.
            population.remove(min(range(len(population)), key=lambda place: population.fitness[place]))
