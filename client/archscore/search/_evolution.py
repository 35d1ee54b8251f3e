"""Regularised (ageing) evolution.

Source: Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, algorithm 1.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from archscore.search._domain import Domain
from archscore.search._objective import Objective
from archscore.search._record import Record
from archscore.search._strategy import Population, Proposal, Proposer


@dataclass(frozen=True, slots=True)
class RegularisedEvolution:
    """Mutates the best of a random sample of a population, which always drops its oldest member.

    Attributes:
        population: how many of the latest evaluations are in it; as many are drawn at random first.
        tournament: members that are drawn, with replacement, to choose a parent.
    """

    name: ClassVar[str] = "evolution"

    population: int = 100
    tournament: int = 25

    def __post_init__(self) -> None:
        """Refuses an empty population or tournament, with a ValueError."""
        if self.population < 1 or self.tournament < 1:
            raise ValueError("population and tournament must be at least 1")

    def start(self, domain: Domain, objective: Objective, lag: int) -> Proposer:  # noqa: ARG002 -- of every strategy
        """Begins with an empty population."""
        return _Proposer(self, domain, objective)

    def to_json(self) -> dict[str, Any]:
        """Its parameters."""
        return asdict(self)


class _Proposer:
    def __init__(self, strategy: RegularisedEvolution, domain: Domain, objective: Objective) -> None:
        self._strategy = strategy
        self._domain = domain
        self._population = Population(objective)

    def propose(self, number: int, rng: random.Random) -> Proposal:
        population = self._population
        if number < self._strategy.population or not population:
            return Proposal(self._domain.sample(rng))
        drawn = [rng.randrange(len(population)) for _ in range(self._strategy.tournament)]
        parent = population.members[max(drawn, key=lambda place: population.fitness[place])]
        return Proposal(self._domain.parse(parent.architecture).mutate(rng), parent.index)

    def tell(self, record: Record) -> None:
        self._population.add(record)
        if len(self._population) > self._strategy.population:
            self._population.remove(0)
