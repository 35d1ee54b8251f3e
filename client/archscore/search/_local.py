"""Local search: hill climbing with restarts.

Source: White et al., "Exploring the Loss Landscape in Neural Architecture Search", UAI 2021, where local search moves
to the best of all neighbours; here it moves to the first that is better, since a genome has more than can be asked.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from archscore.search._domain import Domain
from archscore.search._objective import Objective, Standings
from archscore.search._record import Record
from archscore.search._strategy import Proposal, Proposer


@dataclass(frozen=True, slots=True)
class LocalSearch:
    """Mutates the centre, moves it to what is better, and starts afresh where nothing is.

    Attributes:
        patience: proposals around a centre that may be no better before it is given up. A cell has 24 neighbours.
    """

    name: ClassVar[str] = "local"

    patience: int = 24

    def __post_init__(self) -> None:
        """Refuses impatience, with a ValueError."""
        if self.patience < 1:
            raise ValueError("patience must be at least 1")

    def start(self, domain: Domain, objective: Objective, lag: int) -> Proposer:
        """Begins anywhere."""
        return _Proposer(self, domain, objective, lag)

    def to_json(self) -> dict[str, Any]:
        """Its parameters."""
        return asdict(self)


class _Proposer:
    """Climbs with several proposals under way.

    A new centre is the first told of those drawn since the last one was given up; the others replace it where they are
    better.
    """

    def __init__(self, strategy: LocalSearch, domain: Domain, objective: Objective, lag: int) -> None:
        self._strategy = strategy
        self._domain = domain
        self._standings = Standings(objective)
        self._lag = lag
        self._centre: Record | None = None
        self._failures = 0
        self._since = 0

    def propose(self, _number: int, rng: random.Random) -> Proposal:
        centre = self._centre
        if centre is None:
            return Proposal(self._domain.sample(rng))
        return Proposal(self._domain.parse(centre.architecture).mutate(rng), centre.index)

    def tell(self, record: Record) -> None:
        self._standings.add(record)
        if record.index < self._since:  # proposed around a centre that was given up since
            return
        centre = self._centre
        if centre is None or self._standings.fitness(record) > self._standings.fitness(centre):
            self._centre, self._failures = record, 0
        elif record.index >= centre.index + self._lag:  # proposed since it is the centre
            self._failures += 1
            if self._failures >= self._strategy.patience:
                self._centre, self._failures = None, 0
                self._since = record.index + self._lag
